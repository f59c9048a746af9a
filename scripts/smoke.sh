#!/usr/bin/env bash
# Smoke test with real servers and clients from Debian's packages: nsd behind the daemon; dig, kdig,
# drill and dnsperf in front of it. Loopback only, ports 26000 to 26999; ends what it started.
#
# Usage: scripts/smoke.sh DAEMON_BINARY
set -euo pipefail

readonly zone_port=26053 first_port=26054 second_port=26055 daemon_port=26300 metrics_port=26390
readonly seconds=20 per_second=1000 kill_after=5 lost_max=20

if [ $# -ne 1 ] || [ ! -x "$1" ]; then
    echo "usage: $0 DAEMON_BINARY" >&2
    exit 2
fi
daemon=$(realpath "$1")
for tool in nsd dig kdig drill dnsperf curl; do
    if ! PATH=$PATH:/usr/sbin command -v "$tool" >/dev/null; then
        echo "$tool is missing (Debian: nsd bind9-dnsutils knot-dnsutils ldnsutils dnsperf curl)" >&2
        exit 2
    fi
done
PATH=$PATH:/usr/sbin
export LC_ALL=C

. "$(dirname "$0")/smoke_common.sh"

# Starts the daemon before the upstreams on the ports given, in their order.
start_daemon() {
    {
        echo "return {"
        echo "  listen = { dns = \"127.0.0.1:$daemon_port\", metrics = \"127.0.0.1:$metrics_port\" },"
        echo "  upstreams = {"
        for port in "$@"; do echo "    { name = \"nsd$port\", addr = \"127.0.0.1:$port\" },"; done
        echo "  },"
        echo "}"
    } >"$work/smoke.lua"
    start daemon "$daemon" -config "$work/smoke.lua"
    wait_for "the daemon" curl -fsS "http://127.0.0.1:$metrics_port/readyz"
}

# --- comparing clients' views --------------------------------------------------------------------

compare_all() {
    for client in dig kdig drill; do
        "ask_$client" udp "$zone_port" >"$work/direct-$client"
    done
    start_daemon "$zone_port"
    compare dig udp "nothing cached" "$daemon_port"
    compare dig udp "cached" "$daemon_port"
    compare dig tcp "cached" "$daemon_port"
    compare kdig udp "cached" "$daemon_port"
    compare kdig tcp "cached" "$daemon_port"
    compare drill udp "without EDNS, cached" "$daemon_port"
    end daemon TERM
    start_daemon "$zone_port"
    compare kdig tcp "nothing cached" "$daemon_port"
    compare drill tcp "without EDNS, cached" "$daemon_port"
}

# --- single properties ---------------------------------------------------------------------------

check_properties() {
    check "a large answer by UDP has TC" says 'flags:[a-z ]* tc' +ignore +bufsize=1232 huge1.smoke.example TXT
    check "a large answer by UDP without EDNS has TC" says 'flags:[a-z ]* tc' +ignore +noedns text1.smoke.example TXT
    check "a large answer by TCP is whole" says '^;; MSG SIZE  rcvd: [0-9]{5}' +tcp huge20.smoke.example TXT
    check "RA is set" says 'flags:[a-z ]* ra' a1.smoke.example A
    check "a missing name is NXDOMAIN with its SOA" says 'IN[[:space:]]+SOA' +noall +authority gone.smoke.example A
    check "the question keeps its letter case" says '^;A1\.sMoKe\.eXaMpLe\.' A1.sMoKe.eXaMpLe A
    check "no OPT for who sent none" says 'ADDITIONAL: 0' +noedns a2.smoke.example A
    check "OPT for who sent one" says 'EDNS: version: 0, flags:; udp: 1232' +edns a2.smoke.example A
    check "version 1 of EDNS is BADVERS" says 'BADVERS' +edns=1 +noednsneg a2.smoke.example A
    check "metrics are served" curl -fsS -o /dev/null "http://127.0.0.1:$metrics_port/metrics"
    end daemon TERM
    check "nothing panicked" bash -c "! grep -i panic '$work/daemon.log'"
}

# --- killing an upstream -------------------------------------------------------------------------

# dnsperf asks names that are unique per query while one of two upstreams is killed.
# $1: which is killed (first or second in the daemon's order).
kill_one() {
    local killed=$1 total=$((seconds * per_second)) log=$work/dnsperf.log
    start_nsd first "$first_port"
    start_nsd second "$second_port"
    start_daemon "$first_port" "$second_port"
    awk -v n=$((total + per_second)) -v run="$killed" \
        'BEGIN { for (i = 0; i < n; i++) printf "q%d.%s.w.perf.example A\n", i, run }' >"$work/perf-questions"
    # Line by line, so that the log tells how far it was at the kill.
    start dnsperf stdbuf -oL dnsperf -s 127.0.0.1 -p "$daemon_port" -d "$work/perf-questions" \
        -Q "$per_second" -l "$seconds" -t 5 -v -S 1 -q 5000
    sleep "$kill_after"
    local at_kill
    at_kill=$(grep -c '^> ' "$work/dnsperf.log" || true)
    end "$killed" KILL
    for _ in $(seq $(((seconds + 15) * 10))); do
        if ! kill -0 "${groups[dnsperf]}" 2>/dev/null; then break; fi
        sleep 0.1
    done
    end dnsperf KILL
    end daemon TERM
    judge "$killed" "$at_kill" "$log"
    for name in first second; do
        if [ "$name" != "$killed" ]; then end "$name" TERM; fi
    done
}

# Reads dnsperf's statistics and its line per query. Queries carry their number in their name, so
# that what failed can be told to the second.
judge() {
    local killed=$1 at_kill=$2 log=$3 sent completed lost late servfail
    sent=$(awk '/Queries sent:/ { print $3 }' "$log")
    completed=$(awk '/Queries completed:/ { print $3 }' "$log")
    lost=$(awk '/Queries lost:/ { print $3 }' "$log")
    servfail=$(grep -c '^> SERVFAIL ' "$log" || true)
    # Anything but NOERROR, more than a second's queries after the kill.
    late=$(awk -v from=$((at_kill + per_second)) '
        /^> / && $2 != "NOERROR" { split(substr($3, 2), part, "."); if (part[1] + 0 > from) n++ }
        END { print n + 0 }' "$log")
    printf '      %s killed at query %s: sent %s, completed %s, lost %s, SERVFAIL %s; %s\n' "$killed" "$at_kill" \
        "${sent:-?}" "${completed:-?}" "${lost:-?}" "$servfail" "$(grep 'Response codes:' "$log" | tr -s ' ' || true)"
    check "$killed upstream killed: about $per_second queries a second were sent" \
        [ "${sent:-0}" -ge $((seconds * per_second * 95 / 100)) ]
    check "$killed upstream killed under load, not before or after it" \
        [ "$at_kill" -gt $((kill_after * per_second / 2)) -a "$at_kill" -lt $((seconds * per_second * 3 / 4)) ]
    check "$killed upstream killed: at most $lost_max queries lost" [ "${lost:-$lost_max$lost_max}" -le "$lost_max" ]
    check "$killed upstream killed: at most $lost_max answers are SERVFAIL" [ "$servfail" -le "$lost_max" ]
    check "$killed upstream killed: every answer is NOERROR a second later" [ "$late" -eq 0 ]
}

write_zones
write_questions
start_nsd zone "$zone_port"
compare_all
check_properties
end zone TERM
kill_one first
kill_one second

printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
