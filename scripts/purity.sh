#!/usr/bin/env bash
# Shows that balancedns-core is pure: what it depends on, and what its own object code calls.
# Each check is first shown to fail on something that is not pure. Prints what was checked.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."

core=balancedns-core
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

fail() {
    printf 'FAIL  %s\n' "$1"
    failures=$((failures + 1))
}
pass() { printf 'PASS  %s\n' "$1"; }

# --- dependencies --------------------------------------------------------------------------------

# Crates that own sockets, threads' pollers, signals or entropy.
forbidden_crates='tokio|smol|mio|socket2|nix|async-io|polling|rustix|signal-hook|getrandom'
# The only ones that may stand above libc: the Lua VM's binding, and a lock's futex.
libc_users='mlua|mlua-sys|parking_lot_core'

# The names of all packages that a package needs to run, one a line.
packages_below() { cargo tree --locked --quiet -p "$1" -e normal,no-proc-macro --prefix none -f '{p}' | cut -d ' ' -f 1 | sort -u; }

# Of a package's dependencies: those that are forbidden.
forbidden_below() {
    local packages
    packages=$(packages_below "$1")
    grep -xE "$forbidden_crates" <<<"$packages" || true
}

# Of a package's dependencies: those that use libc themselves and may not.
libc_users_below() {
    local packages users
    packages=$(packages_below "$1")
    grep -qx libc <<<"$packages" || return 0
    users=$(cargo tree --locked --quiet -p "$1" -e normal,no-proc-macro -i libc --depth 1 --prefix depth -f '{p}' |
        sed -n 's/^1\([^ ]*\) .*/\1/p' | sort -u)
    grep -vxE "$libc_users" <<<"$users" || true
}

for daemon in balancedns balancedns-smol; do
    if [ -z "$(forbidden_below $daemon)" ]; then
        fail "the check of dependencies finds nothing in $daemon, which has sockets"
    fi
done
found=$(forbidden_below $core)
count=$(packages_below $core | wc -l)
if [ -n "$found" ]; then
    fail "$core depends on: $(tr '\n' ' ' <<<"$found")"
else
    pass "none of $count packages of $core is ${forbidden_crates//|/, }"
fi

for daemon in balancedns balancedns-smol; do
    if [ -z "$(libc_users_below $daemon)" ]; then
        fail "the check of libc's users finds nothing in $daemon, which has them"
    fi
done
found=$(libc_users_below $core)
if [ -n "$found" ]; then
    fail "libc is used in $core by: $(tr '\n' ' ' <<<"$found")"
else
    pass "libc is used in $core by none but ${libc_users//|/, }"
fi

features=$(cargo tree --locked --quiet -p $core -e normal,no-proc-macro --prefix none -f '{p}|{f}' |
    sed -n 's/^hickory-proto [^|]*|\([^ ]*\).*/\1/p' | sort -u)
if grep -qE '(^|,)std(,|$)' <<<"$features"; then
    fail "hickory-proto has its feature std in $core: $features"
else
    pass "hickory-proto is without its feature std in $core (features: ${features:-none})"
fi

# The features of core in a build of a daemon.
core_features_below() {
    cargo tree --locked --quiet -p "$1" --features "${2:-}" -e normal,no-proc-macro --prefix none -f '{p}|{f}' |
        sed -n "s/^$core [^|]*|\([^ ]*\).*/\1/p" | sort -u
}
if ! core_features_below balancedns-sim planted | grep -qw planted; then
    fail "the check of features does not find planted bugs in the simulator, which can have them"
fi
for daemon in balancedns balancedns-smol; do
    if core_features_below $daemon | grep -qw planted; then
        fail "$daemon is built with planted bugs"
    fi
done
pass "no daemon is built with planted bugs"

# --- object code ---------------------------------------------------------------------------------

# What a pure state machine never calls. std::process::abort is how an assertion ends.
impure='std::(fs|env|process|os)::|std::net::(tcp|udp)|ToSocketAddrs'
impure+='|std::sys::(fs|net|process|random|stdio)|std::io::stdio|std::path::Path::(exists|metadata|is_|read_|canon)'
impure+='|std::thread::(functions|builder|scoped|current|lifecycle|spawnhook|thread|id|spawn|sleep|Thread)'
impure+='|std::time::(Instant|SystemTime)'
# Drawing random hash keys; only hashing with them, as http's HeaderMap can, draws nothing.
impure+='|RandomState( as core::default::Default)?>?::(new|default)|hashmap_random_keys'

# Symbols that an rlib's own objects expect from elsewhere.
undefined_of() { nm -C --undefined-only "$1" 2>/dev/null | sed -n 's/^ *U //p' | sort -u; }
impure_of() { undefined_of "$1" | grep -E "$impure" | grep -vx 'std::process::abort' || true; }

# Each of these has to be found, by the same compiler that builds core.
declare -A planted=(
    [files]='let _ = std::fs::read("x");'
    [open]='let _ = std::fs::OpenOptions::new().open("x");'
    [udp]='let _ = std::net::UdpSocket::bind("[::]:0");'
    [tcp]='let _ = std::net::TcpStream::connect("[::]:0");'
    [listener]='let _ = std::net::TcpListener::bind("[::]:0");'
    [resolver]='use std::net::ToSocketAddrs; let _ = ("x", 1).to_socket_addrs();'
    [spawn]='std::thread::spawn(|| ());'
    [sleep]='std::thread::sleep(std::time::Duration::ZERO);'
    [identity]='let _ = std::thread::current().id();'
    [environment]='let _ = std::env::var("x");'
    [arguments]='let _ = std::env::args().count();'
    [clock]='let _ = std::time::Instant::now();'
    [date]='let _ = std::time::SystemTime::now();'
    [exit]='std::process::exit(1);'
    [command]='let _ = std::process::Command::new("x").spawn();'
    [print]='println!("x");'
    [randomness]='let _: std::collections::HashMap<u8, u8> = Default::default();'
)
for name in "${!planted[@]}"; do
    printf 'pub fn planted() { %s }\n' "${planted[$name]}" >"$work/$name.rs"
    # Without bitcode, as cargo's dev profile does: nm would look into that instead.
    rustc --edition 2024 --crate-type rlib -C embed-bitcode=no \
        --crate-name "planted_$name" -o "$work/$name.rlib" "$work/$name.rs"
    if [ -z "$(impure_of "$work/$name.rlib")" ]; then
        fail "the check of object code does not find: ${planted[$name]}"
    fi
done
pass "the check of object code was tried on ${#planted[@]} planted calls"

cargo build --locked --quiet -p $core
target=$(cargo metadata --locked --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
rlib=$target/debug/libbalancedns_core.rlib
undefined_of "$rlib" >"$work/undefined"
count=$(wc -l <"$work/undefined")
found=$(impure_of "$rlib")
if [ "$count" -lt 50 ]; then
    fail "only $count undefined symbols in $rlib: this cannot be all of it"
elif [ -n "$found" ]; then
    fail "the object code of $core calls:"
    sed 's/^/        /' <<<"$found"
else
    pass "none of $count undefined symbols of $core's objects is of std's files, sockets, threads, environment, clocks or processes"
fi

if [ "$failures" -gt 0 ]; then
    printf 'purity: %d failed\n' "$failures"
    exit 1
fi
echo 'purity: core is pure'
