#!/usr/bin/env bash
# How much of core its tests reach: lines by file, then every line with something that no test
# reaches. Fails below COVERAGE_MIN percent of the lines (90). With `all` the simulator's tests
# count too. Modules of tests are left out of every figure.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."

case ${1:-own} in
    own) packages=(-p balancedns-core) ;;
    all) packages=(-p balancedns-core -p balancedns-sim) ;;
    *)
        echo "usage: $0 [all]" >&2
        exit 2
        ;;
esac
least=${COVERAGE_MIN:-90}

# rustup's own copy of these tools is one more download; Debian's read the same format.
export LLVM_COV=${LLVM_COV:-/usr/bin/llvm-cov-19}
export LLVM_PROFDATA=${LLVM_PROFDATA:-/usr/bin/llvm-profdata-19}
missing=()
[ -x "$LLVM_COV" ] && [ -x "$LLVM_PROFDATA" ] || missing+=(llvm-19)
command -v jq >/dev/null || missing+=(jq)
if [ ${#missing[@]} -gt 0 ]; then
    echo "missing Debian packages: ${missing[*]}" >&2
    exit 2
fi
command -v cargo-llvm-cov >/dev/null || cargo install cargo-llvm-cov --locked

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cargo llvm-cov --no-report --locked "${packages[@]}"
cargo llvm-cov report --lcov --output-path "$work/lines" 2>/dev/null
cargo llvm-cov report --json --output-path "$work/regions.json" 2>/dev/null

# Where the module of tests begins that ends a file.
grep -rn --include='*.rs' '^mod tests {' core/src | cut -d : -f 1,2 | tr : '\t' >"$work/cuts"
# Regions of code that no instance of a function has run: file and line.
jq -r --arg root "$PWD/" '
    [.data[0].functions[] | .filenames as $names | .regions[] | select(.[7] == 0)
        | {file: $names[.[5]] | ltrimstr($root), at: .[0:4], count: .[4]}]
    | group_by([.file, .at])[] | select(all(.count == 0)) | .[0] | [.file, .at[0]] | @tsv
' "$work/regions.json" | sort -u >"$work/regions"

# Both lists come as file and line, with how often it ran; what is of tests is taken out.
not_of_tests() {
    awk -F '\t' -v cuts="$work/cuts" '
        BEGIN { while ((getline line < cuts) > 0) { split(line, part, "\t"); cut[part[1]] = part[2] } }
        $1 !~ /^core\/src\// || $1 ~ /(_tests|\/tests|\/testing)\.rs$|\/tests\// { next }
        !($1 in cut) || $2 < cut[$1]'
}
awk -v root="$PWD/" '
    /^SF:/ { file = substr($0, 4); sub("^" root, "", file) }
    /^DA:/ { split(substr($0, 4), part, ","); print file "\t" part[1] "\t" part[2] }
' "$work/lines" | not_of_tests >"$work/own"

echo
awk -F '\t' '
    { all[$1]++; reached[$1] += $3 > 0 }
    END { for (file in all) printf "%6.2f %%  %4d of %4d  %s\n", 100 * reached[file] / all[file], reached[file], all[file], file }
' "$work/own" | sort -n
printf '\nnot reached by any test, wholly or in part:\n'
# Without the feature a planted bug is a branch that is never taken: its condition stands on the line
# or close above it.
not_of_tests <"$work/regions" | grep -v '^core/src/planted.rs' | sort -t "$(printf '\t')" -k 1,1 -k 2,2n |
    while IFS=$'\t' read -r file line; do
        text=$(sed -n "${line}p" "$file")
        above=$((line > 3 ? line - 3 : 1))
        if ! sed -n "${above},${line}p" "$file" | grep -q 'is_planted('; then
            printf '%s:%s: %s\n' "$file" "$line" "${text#"${text%%[![:space:]]*}"}"
        fi
    done
awk -F '\t' -v least="$least" '
    { all++; reached += $3 > 0 }
    END {
        if (all < 1000) { print "only " all + 0 " lines: this cannot be all of core"; exit 1 }
        figure = 100 * reached / all
        printf "\n%.2f %% of %d lines of core (at least %s %%)\n", figure, all, least
        exit figure < least
    }' "$work/own"
