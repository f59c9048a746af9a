#!/usr/bin/env bash
# Smoke test of policies with real servers and clients from Debian's packages: nsd behind the daemon;
# dig, kdig, drill and dnsperf in front of it. A Lua script, a shell script and an executable decide,
# beside lists, local records and groups; then each shipped configuration about these answers.
# Loopback only, ports 26000 to 26999; ends what it started.
#
# Usage: scripts/smoke_policies.sh DAEMON_BINARY POLICY_BINARY
# (POLICY_BINARY: that of the package balancedns-examples)
set -euo pipefail

readonly zone_port=26053 daemon_port=26300 metrics_port=26390
readonly listed=100000 queries=20000

if [ $# -ne 2 ] || [ ! -x "$1" ] || [ ! -x "$2" ]; then
    echo "usage: $0 DAEMON_BINARY POLICY_BINARY" >&2
    exit 2
fi
daemon=$(realpath "$1")
executable=$(realpath "$2")
for tool in nsd dig kdig drill dnsperf curl; do
    if ! PATH=$PATH:/usr/sbin command -v "$tool" >/dev/null; then
        echo "$tool is missing (Debian: nsd bind9-dnsutils knot-dnsutils ldnsutils dnsperf curl)" >&2
        exit 2
    fi
done
PATH=$PATH:/usr/sbin
export LC_ALL=C

root=$(realpath "$(dirname "$0")/..")
. "$root/scripts/smoke_common.sh"

# Starts the daemon with a configuration, and waits until it is ready.
start_daemon() {
    start daemon "$daemon" -config "$1"
    wait_for "the daemon" curl -fsS "http://127.0.0.1:$metrics_port/readyz"
}

# Ends the daemon; it may have neither panicked nor left anybody behind.
end_daemon() {
    local what=$1 pid=${groups[daemon]} children
    children=$(pgrep -P "$pid" | tr '\n' ' ' || true)
    end daemon TERM
    check "$what: nothing panicked" bash -c "! grep -i panic '$work/daemon.log'"
    for child in $children; do
        check "$what: its plugin $child has ended with it" [ ! -e "/proc/$child" ]
    done
}

metric() {
    curl -fsS "http://127.0.0.1:$metrics_port/metrics" | awk -v series="$1" '$1 == series { print $2 }'
}

# What three clients see of a name: all have to see the same line.
see() {
    local name=$1 type=$2 pattern=$3
    check "dig: $name $type" says "$pattern" "$name" "$type"
    check "kdig: $name $type" bash -c \
        "kdig @127.0.0.1 -p $daemon_port +retry=0 '$name' $type | grep -qE '$pattern'"
    check "drill: $name $type" bash -c \
        "drill -p $daemon_port '$name' @127.0.0.1 $type | grep -qE '$pattern'"
}

readonly blank='[[:space:]]+'

# $1: the entry of the plugin that is asked.
write_configuration() {
    cat >"$work/smoke.lua" <<LUA
return {
  listen = { dns = "127.0.0.1:$daemon_port", metrics = "127.0.0.1:$metrics_port" },
  upstreams = { { name = "nsd", addr = "127.0.0.1:$zone_port" } },
  routing = { chain = { "blacklist", "hosts", "lua_policy", "cache", "upstream" } },
  cache = { enabled = $2 },
  blacklist = { files = { "ads.txt" }, mode = "nxdomain" },
  rebinding = { enabled = true },
  local_records = {
    "safe.search.example. 300 A 192.0.2.33",
    "strict.bing.com. 300 A 192.0.2.34",
    "*.apps.lan.example. CNAME nas.lan.example.",
    "nas.lan.example. 300 A 192.0.2.7",
    [[data.lan.example. TYPE65280 \\# 4 01020304]],
  },
  groups = { { name = "free", clients = { "127.0.0.2" }, blacklist = false, plugins = {} } },
  plugins = { enabled = true, timeout_ms = 2000, entries = { $1 } },
}
LUA
}

write_list() {
    {
        echo "||a1.smoke.example^"
        echo "0.0.0.0 host1.elsewhere.example"
        for i in $(seq "$listed"); do echo "n$i.ads.example"; done
    } >"$work/ads.txt"
}

# The same decisions, whoever makes them: those of scripts/policy.sh and examples/src/policy.rs.
decisions() {
    cat <<'LUA'
function handle(question)
  local domain = question.domain
  if dns.below(domain, "ads.example") then return "BLOCK" end
  if domain == "www.search.example." then
    return { action = "REWRITE", rewrite_domain = "safe.search.example." }
  end
  if domain == "printer.example." then
    return { action = "LOCAL_DATA", local_data = { ttl = 300, ips = { "192.0.2.10", "2001:db8::10" } } }
  end
end
LUA
}

check_decisions() {
    see x.ads.example A 'NXDOMAIN'
    see printer.example A "printer\.example\.${blank}300${blank}IN${blank}A${blank}192\.0\.2\.10"
    see printer.example AAAA "AAAA${blank}2001:db8::10"
    see www.search.example A "www\.search\.example\.${blank}60${blank}IN${blank}CNAME${blank}safe\.search\.example\."
    see www.search.example A "A${blank}192\.0\.2\.33"
    see a2.smoke.example A "A${blank}192\.0\.2\.3$"
    check "who blocks is told" says 'EDE: 15 \(Blocked\): \(policy\)' x.ads.example A
    check "printer.example has no MX" says 'SOA' +noall +authority printer.example MX
    check "the question keeps its letter case" says '^;WWW\.sEaRCH\.eXaMpLe\.' WWW.sEaRCH.eXaMpLe A
    check "over TCP it is the same" says "A${blank}192\.0\.2\.33" +tcp www.search.example A
    check "nothing has failed" [ "$(metric balancedns_plugin_execution_errors)" = 0 ]
}

# What holds beside any policy.
check_lists_and_records() {
    see n$listed.ads.example A 'NXDOMAIN'
    check "a list is told by its name" says 'EDE: 15 \(Blocked\): \(ads\.txt\)' a1.smoke.example A
    check "what leads to a listed name is blocked" says 'EDE: 15 \(Blocked\)' out1.smoke.example A
    check "the same from the cache" says 'EDE: 15 \(Blocked\)' out1.smoke.example A
    check "what leads elsewhere is not" says "CNAME${blank}host2" out2.smoke.example A
    check "a private address of a public name is held back" says 'EDE: 15 .*private address' ns.smoke.example A
    check "who may see everything does" says "A${blank}192\.0\.2\.2$" -b 127.0.0.2 a1.smoke.example A
    check "and passes no policy" says 'REFUSED|SERVFAIL' -b 127.0.0.2 printer.example A
    see mail.apps.lan.example A "A${blank}192\.0\.2\.7"
    check "a type without a name" says "01020304" data.lan.example TYPE65280
}

# Names that are asked once each: every one of them passes the policy. None may be lost or fail.
check_load() {
    local what=$1 log=$work/dnsperf.log completed servfail
    awk -v n=$queries 'BEGIN { for (i = 0; i < n; i++) printf "q%d.w.perf.example A\n", i }' >"$work/perf-questions"
    dnsperf -s 127.0.0.1 -p "$daemon_port" -d "$work/perf-questions" -t 5 -q 100 >"$log" 2>&1
    completed=$(awk '/Queries completed:/ { print $3 }' "$log")
    servfail=$(grep -c 'SERVFAIL' "$log" || true)
    printf '      %s: %s queries a second\n' "$what" "$(awk '/Queries per second:/ { print $4 }' "$log")"
    check "$what: all of $queries queries are answered" [ "${completed:-0}" -eq "$queries" ]
    check "$what: none fails" [ "$servfail" -eq 0 ]
}

try_plugins() {
    local worker='name = "policy", runtime = "exec", mode = "worker"'
    decisions >"$work/policy.lua"
    declare -A entries=(
        [lua]='{ name = "policy", path = "policy.lua" }'
        [shell, once]="{ name = \"policy\", runtime = \"go_exec\", path = \"$root/scripts/policy.sh\" }"
        [shell, kept]="{ $worker, path = \"$root/scripts/policy.sh\" }"
        [executable, once]="{ name = \"policy\", runtime = \"exec\", path = \"$executable\" }"
        [executable, kept]="{ $worker, path = \"$executable\" }"
    )
    for kind in lua 'shell, once' 'shell, kept' 'executable, once' 'executable, kept'; do
        printf '== %s\n' "$kind"
        write_configuration "${entries[$kind]}" true
        start_daemon "$work/smoke.lua"
        check_decisions
        if [ "$kind" = lua ]; then check_lists_and_records; fi
        case $kind in *once) ;; *) check_load "$kind" ;; esac
        end_daemon "$kind"
    done
}

# The example in Lua; one of its networks is made one that this machine has.
try_example() {
    printf '== scripts/policy.lua\n'
    sed 's/192\.168\.1\.128\/26/127.0.0.3/' "$root/scripts/policy.lua" >"$work/policy.lua"
    write_configuration '{ name = "policy", path = "policy.lua" }' true
    start_daemon "$work/smoke.lua"
    check "the example blocks" says 'NXDOMAIN' x.tracker.example A
    see printer.home.arpa A "A${blank}192\.168\.1\.20"
    see nas.home.arpa AAAA "AAAA${blank}fd00::30"
    check "the example rewrites for a child" says "A${blank}192\.0\.2\.34" -b 127.0.0.3 www.bing.com A
    check "the example shows a child the alias" says "CNAME${blank}strict\.bing\.com" -b 127.0.0.3 www.bing.com A
    check "the example does not for others" bash -c \
        "! dig @127.0.0.1 -p $daemon_port +tries=1 +time=5 www.bing.com A | grep -q strict"
    check "the example sends ANY to TCP" says 'flags:[a-z ]* tc' +notcp +ignore a2.smoke.example ANY
    check "the example lets pass" says "A${blank}192\.0\.2\.3$" a2.smoke.example A
    check "the example has not failed" [ "$(metric balancedns_plugin_execution_errors)" = 0 ]
    end_daemon "the example"
}

# A shipped configuration on our ports, asking nsd; what else has to be other is said in sed's words.
shipped() {
    local name=$1
    shift
    printf '== configs/%s.lua\n' "$name"
    cp -r "$root/configs" "$work/shipped"
    sed -i -E -e "s/listen = \{ dns = \"[^\"]*\"/listen = { metrics = \"127.0.0.1:$metrics_port\", dns = \"127.0.0.1:$daemon_port\"/" \
        -e "s/\"[0-9.]+:53\"/\"127.0.0.1:$zone_port\"/" "$@" "$work/shipped/$name.lua"
    start_daemon "$work/shipped/$name.lua"
}

end_shipped() {
    end_daemon "configs/$1.lua"
    rm -r "$work/shipped"
}

try_shipped() {
    shipped policies
    check "a policy blocks" says 'REFUSED' x.telemetry.example A
    check "a policy answers" says "A${blank}192\.0\.2\.40" office.printers.example A
    check "a policy lets pass" says "A${blank}192\.0\.2\.3$" a2.smoke.example A
    end_shipped policies

    shipped groups -e 's/192\.168\.1\.64\/26/127.0.0.2/' -e 's/192\.168\.1\.70/127.0.0.3/'
    check "everybody's list" says 'REFUSED' x.ads.example A
    check "everybody has no plugin" says 'REFUSED' x.telemetry.example A
    check "children's list" says 'NXDOMAIN' -b 127.0.0.2 x.games.example A
    check "children's plugin" says "A${blank}192\.0\.2\.40" -b 127.0.0.2 office.printers.example A
    check "children's pool" says "A${blank}192\.0\.2\.3$" -b 127.0.0.2 a2.smoke.example A
    check "one among them" says "A${blank}192\.0\.2\.3$" -b 127.0.0.3 a2.smoke.example A
    end_shipped groups

    shipped local_records
    check "an address" says "A${blank}192\.0\.2\.7" nas.lan.example A
    check "a wildcard's alias" says "CNAME${blank}nas\.lan" any.apps.lan.example A
    check "a name beside the wildcard" says "A${blank}192\.0\.2\.8" legacy.apps.lan.example A
    check "HTTPS" says 'alpn="?h2,h3' www.lan.example HTTPS
    check "a pointer" says "PTR${blank}nas\.lan" -x 192.0.2.7
    check "a type without a name" says '01020304' data.lan.example TYPE65280
    end_shipped local_records

    shipped blocklists
    for name in ads.example x.ads.example www.tracker.example x.telemetry.example; do
        check "$name is blocked" says 'NXDOMAIN' $name A
    done
    for name in good.ads.example status.telemetry.example; do
        check "$name is not" bash -c "! dig @127.0.0.1 -p $daemon_port +tries=1 +time=5 $name A | grep -q 'EDE: 15'"
    done
    end_shipped blocklists
}

write_zones
write_list
start_nsd zone "$zone_port"
try_plugins
try_example
try_shipped
end zone TERM

printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
