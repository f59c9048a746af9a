#!/usr/bin/env bash
# Smoke test of encrypted DNS with real clients and servers from Debian's packages. In front of the
# daemon: kdig, curl, openssl, dnsperf and h2load, by DoT, DoH and TCP. Behind it: unbound and dnsdist,
# asked by TCP, DoT and DoH, killed and started again under load. Loopback only, ports 26000 to
# 26999; ends what it started.
#
# Usage: scripts/smoke_encrypted.sh DAEMON_BINARY
set -euo pipefail

readonly zone_port=26053 daemon_port=26300 metrics_port=26390
readonly dot_port=26853 doh_port=26443 plain_port=26080
# Clients under load: queries of one run.
readonly load_queries=20000
# Upstreams under load: length and rate of a run, and when one of them is killed.
readonly seconds=6 per_second=500 kill_after=2 in_flight_max=20

if [ $# -ne 1 ] || [ ! -x "$1" ]; then
    echo "usage: $0 DAEMON_BINARY" >&2
    exit 2
fi
daemon=$(realpath "$1")
for tool in nsd dig kdig curl openssl dnsperf h2load unbound dnsdist; do
    if ! PATH=$PATH:/usr/sbin command -v "$tool" >/dev/null; then
        echo "$tool is missing (Debian: nsd bind9-dnsutils knot-dnsutils curl openssl dnsperf nghttp2-client unbound dnsdist)" >&2
        exit 2
    fi
done
PATH=$PATH:/usr/sbin
export LC_ALL=C

. "$(dirname "$0")/smoke_common.sh"
kdig_tls=(+tls-ca="$work/ca.pem" +tls-hostname=dns.test)

# --- certificates --------------------------------------------------------------------------------

# An authority, and a certificate of it for dns.test and 127.0.0.1.
make_certificates() {
    local new=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30)
    openssl req -x509 "${new[@]}" -subj "/CN=Authority of the smoke test" \
        -keyout "$work/ca.key" -out "$work/ca.pem" 2>/dev/null
    openssl req "${new[@]:0:5}" -subj "/CN=dns.test" -keyout "$work/server.key" -out "$work/server.csr" 2>/dev/null
    openssl x509 -req -days 30 -in "$work/server.csr" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial \
        -extfile <(echo "subjectAltName = DNS:dns.test, IP:127.0.0.1") -out "$work/server.pem" 2>/dev/null
    chmod 755 "$work"
    chmod 644 "$work/server.key"
}

# --- the daemon ----------------------------------------------------------------------------------

# Starts the daemon before these upstreams, each a Lua table.
start_daemon() {
    {
        echo "return {"
        echo "  listen = {"
        echo "    dns = \"127.0.0.1:$daemon_port\", metrics = \"127.0.0.1:$metrics_port\","
        echo "    dot = \"127.0.0.1:$dot_port\", doh = \"127.0.0.1:$doh_port\", doh_plain = \"127.0.0.1:$plain_port\","
        echo "    tls_cert_file = \"server.pem\", tls_key_file = \"server.key\","
        echo "  },"
        echo "  upstreams = {"
        printf '    %s,\n' "$@"
        echo "  },"
        # A failure is to be seen as often as it happens.
        echo "  cache = { servfail_ttl_seconds = 0 },"
        echo "}"
    } >"$work/smoke.lua"
    start daemon "$daemon" -config "$work/smoke.lua"
    wait_for "the daemon" curl -fsS "http://127.0.0.1:$metrics_port/readyz"
}

# --- clients, one query at a time ----------------------------------------------------------------

compare_all() {
    ask_kdig udp "$zone_port" >"$work/direct-kdig"
    compare kdig tls "nothing cached" "$dot_port"
    compare kdig tls "cached" "$dot_port"
    compare kdig https-post "cached" "$doh_port"
    compare kdig https-get "cached" "$doh_port"
    end daemon TERM
    start_daemon "{ name = \"nsd\", addr = \"127.0.0.1:$zone_port\" }"
    compare kdig https-post "nothing cached" "$doh_port"
}

readonly doh_url=https://127.0.0.1:$doh_port/dns-query

# The status that curl gets with these arguments.
status() { curl -sS -o "$work/body" -w '%{http_code}' --cacert "$work/ca.pem" "$@" 2>>"$work/curl.log"; }
has_status() {
    local expected=$1
    shift
    [ "$(status "$@")" = "$expected" ]
}
# The same, and the body is the answer to the query in $work/query.
answers() {
    has_status 200 "$@" && cmp -s -n 2 "$work/body" "$work/query" &&
        [ "$(od -An -tx1 -j 3 -N 1 "$work/body" | tr -d ' ')" = 80 ] && [ "$(stat -c %s "$work/body")" -gt 45 ]
}
# A session of openssl with these arguments says this.
session_says() {
    local pattern=$1
    shift
    openssl s_client -connect "127.0.0.1:$dot_port" -servername dns.test -CAfile "$work/ca.pem" "$@" \
        </dev/null >"$work/session" 2>&1 || true
    grep -qE "$pattern" "$work/session"
}
resumes() {
    rm -f "$work/ticket"
    # Tickets of TLS 1.3 come behind the handshake: a moment is left for them.
    (sleep 1) | openssl s_client -connect "127.0.0.1:$dot_port" -servername dns.test -sess_out "$work/ticket" "$@" \
        >/dev/null 2>&1 || true
    session_says '^Reused, ' -sess_in "$work/ticket" "$@"
}

check_clients() {
    # a1.smoke.example A, with the id 0x1234.
    printf '\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02a1\x05smoke\x07example\x00\x00\x01\x00\x01' >"$work/query"
    local encoded
    encoded=$(base64 -w 0 "$work/query" | tr '+/' '-_' | tr -d '=')
    local media=(-H 'content-type: application/dns-message')
    for version in --http1.1 --http2; do
        check "curl $version, POST" answers "$version" "${media[@]}" --data-binary "@$work/query" "$doh_url"
        check "curl $version, GET" answers "$version" "$doh_url?dns=$encoded"
        check "curl $version, another path: 404" has_status 404 "$version" "https://127.0.0.1:$doh_port/?dns=$encoded"
        check "curl $version, PUT: 405" has_status 405 "$version" -X PUT "$doh_url?dns=$encoded"
        check "curl $version, another media type: 415" \
            has_status 415 "$version" -H 'content-type: text/plain' --data-binary "@$work/query" "$doh_url"
        check "curl $version, no parameter: 400" has_status 400 "$version" "$doh_url"
    done
    check "curl, plain HTTP/1.1" answers "http://127.0.0.1:$plain_port/dns-query?dns=$encoded"
    check "curl, plain HTTP/2" answers --http2-prior-knowledge "http://127.0.0.1:$plain_port/dns-query?dns=$encoded"
    # ns.smoke.example is 127.0.0.1: only our answer leads curl to the page.
    check "curl --doh-url" has_status 200 --doh-url "$doh_url" "http://ns.smoke.example:$metrics_port/healthz"
    check "kdig refuses what it cannot verify" bash -c \
        "! kdig @127.0.0.1 -p $dot_port +tls +tls-ca=$work/ca.pem +tls-hostname=other.test a1.smoke.example | grep -q NOERROR"
    check "openssl, the chain verifies" session_says 'Verify return code: 0 ' -verify_hostname dns.test
    check "openssl, ALPN dot" session_says '^ALPN protocol: dot' -alpn dot
    check "openssl, TLS 1.2" session_says 'Protocol *: TLSv1.2' -tls1_2
    check "openssl, TLS 1.3" session_says 'TLSv1.3' -tls1_3
    check "openssl, no TLS 1.1" session_says 'alert|no protocols available' -tls1_1 -cipher DEFAULT@SECLEVEL=0
    check "openssl, a TLS 1.2 session is resumed" resumes -tls1_2
    check "openssl, a TLS 1.3 session is resumed" resumes -tls1_3
}

# --- clients under load --------------------------------------------------------------------------

# dnsperf asks each of the questions many times; none may be lost, and none fail.
load_dnsperf() {
    local what=$1 log=$work/load.log sent completed
    shift
    dnsperf -s 127.0.0.1 -d "$work/load-questions" -n $((load_queries / 1000)) -c 4 -q 100 -t 5 "$@" >"$log" 2>&1 || true
    sent=$(awk '/Queries sent:/ { print $3 }' "$log")
    completed=$(awk '/Queries completed:/ { print $3 }' "$log")
    check "dnsperf $what: $load_queries queries, ${completed:-0} answers, all of them NOERROR" \
        [ "${sent:-0}" -eq "$load_queries" -a "${completed:-0}" -eq "$load_queries" \
        -a "$(grep -c "Response codes: *NOERROR $load_queries " "$log")" -eq 1 ]
}

load_h2load() {
    local what=$1 log=$work/load.log
    shift
    h2load -n "$load_queries" "$@" >"$log" 2>&1 || true
    check "h2load $what: $load_queries requests succeed" \
        grep -q "$load_queries succeeded, 0 failed, 0 errored, 0 timeout" "$log"
    check "h2load $what: $load_queries times 200" grep -q "status codes: $load_queries 2xx, 0 3xx, 0 4xx, 0 5xx" "$log"
}

check_load() {
    for i in $(seq 500); do echo "a$i.smoke.example A"; done >"$work/load-questions"
    for i in $(seq 500); do echo "w$i.wild.smoke.example A"; done >>"$work/load-questions"
    load_dnsperf tcp -m tcp -p "$daemon_port"
    load_dnsperf dot -m dot -p "$dot_port"
    # Not by DoH: dnsperf 2.10 seems to take one answer from each record of TLS and the next one when something
    # else comes, so that it loses what is answered together. h2load takes all.
    local post=(-d "$work/query" -H 'content-type: application/dns-message')
    load_h2load "HTTP/2, 10 connections of 50 streams" -c 10 -m 50 "${post[@]}" "$doh_url"
    load_h2load "HTTP/1.1, 20 connections" --h1 -c 20 "${post[@]}" "$doh_url"
    load_h2load "plain HTTP/2" -c 10 -m 50 "${post[@]}" "http://127.0.0.1:$plain_port/dns-query"
    check "nothing panicked" bash -c "! grep -i panic '$work/daemon.log'"
}

# --- upstreams killed under load -----------------------------------------------------------------

# Each server has three ports in a row: plain, DoT, DoH.
readonly first=26500 second=26510

start_unbound() {
    local name=$1 port=$2
    mkdir -p "$work/$name"
    cat >"$work/$name/unbound.conf" <<CONF
server:
    interface: 127.0.0.1@$port
    interface: 127.0.0.1@$((port + 1))
    interface: 127.0.0.1@$((port + 2))
    tls-port: $((port + 1))
    https-port: $((port + 2))
    tls-service-key: "$work/server.key"
    tls-service-pem: "$work/server.pem"
    incoming-num-tcp: 50
    do-daemonize: no
    use-syslog: no
    chroot: ""
    username: ""
    directory: "$work/$name"
    pidfile: "$work/$name/pid"
    module-config: "iterator"
    local-zone: "perf.example." redirect
    local-data: "perf.example. A 192.0.2.80"
remote-control:
    control-enable: no
CONF
    start "$name" unbound -d -c "$work/$name/unbound.conf"
}

start_dnsdist() {
    local name=$1 port=$2
    mkdir -p "$work/$name"
    cat >"$work/$name/dnsdist.conf" <<CONF
setSecurityPollSuffix("")
setLocal("127.0.0.1:$port")
addTLSLocal("127.0.0.1:$((port + 1))", "$work/server.pem", "$work/server.key")
addDOHLocal("127.0.0.1:$((port + 2))", "$work/server.pem", "$work/server.key", { "/dns-query" })
addAction(AllRule(), SpoofAction("192.0.2.80"))
CONF
    start "$name" dnsdist --supervised --disable-syslog -C "$work/$name/dnsdist.conf"
}

# Whether a server answers by this protocol.
is_up() {
    local protocol=$1 port=$2 options
    case $protocol in
        tcp) options=(+tcp) ;;
        dot) options=(+tls) port=$((port + 1)) ;;
        doh) options=(+https=/dns-query) port=$((port + 2)) ;;
    esac
    kdig @127.0.0.1 -p "$port" "${options[@]}" +retry=0 +timeout=1 up.perf.example A | grep -q 192.0.2.80
}

# An upstream of the daemon, as a Lua table.
upstream() {
    local name=$1 protocol=$2 port=$3
    local tls='tls_server_name = "dns.test", tls_ca_file = "ca.pem"'
    case $protocol in
        tcp) echo "{ name = \"$name\", protocol = \"tcp\", addr = \"127.0.0.1:$port\" }" ;;
        dot) echo "{ name = \"$name\", protocol = \"dot\", addr = \"127.0.0.1:$((port + 1))\", $tls }" ;;
        doh) echo "{ name = \"$name\", protocol = \"doh\", doh_url = \"https://127.0.0.1:$((port + 2))/dns-query\", $tls }" ;;
    esac
}

# How many queries dnsperf has answers for so far.
answered() { grep -c '^> ' "$work/dnsperf.log" || true; }

# dnsperf asks names that are unique per query; the first upstream is killed, and started again.
# $1: unbound or dnsdist; $2: protocol; $3: one upstream or two.
kill_and_restart() {
    local server=$1 protocol=$2 count=$3 upstreams=()
    local name="$count $server by $protocol"
    "start_$server" first "$first"
    wait_for "$server" is_up "$protocol" "$first"
    upstreams=("$(upstream first "$protocol" "$first")")
    if [ "$count" = two ]; then
        "start_$server" second "$second"
        wait_for "the other $server" is_up "$protocol" "$second"
        upstreams+=("$(upstream second "$protocol" "$second")")
    fi
    start_daemon "${upstreams[@]}"
    awk -v n=$(((seconds + 1) * per_second)) -v run="$server-$protocol-$count" \
        'BEGIN { for (i = 0; i < n; i++) printf "q%d.%s.perf.example A\n", i, run }' >"$work/perf-questions"
    start dnsperf stdbuf -oL dnsperf -s 127.0.0.1 -p "$daemon_port" -d "$work/perf-questions" \
        -Q "$per_second" -l "$seconds" -t 5 -v -S 1 -q 5000
    sleep "$kill_after"
    local at_kill at_return
    end first KILL
    at_kill=$(answered)
    "start_$server" first "$first"
    wait_for "$server" is_up "$protocol" "$first"
    at_return=$(answered)
    for _ in $(seq $(((seconds + 10) * 10))); do
        if ! kill -0 "${groups[dnsperf]}" 2>/dev/null; then break; fi
        sleep 0.1
    done
    end dnsperf KILL
    local reused
    reused=$(curl -fsS "http://127.0.0.1:$metrics_port/metrics" |
        awk '/^balancedns_upstream_connections_opened_total/ { n += $2 } END { print n + 0 }')
    end daemon TERM
    end first KILL
    if [ "$count" = two ]; then end second KILL; fi
    judge "$name" "$count" "$at_kill" "$at_return" "$reused"
}

# Reads dnsperf's statistics and its line per query. With two upstreams nothing may be lost. With one,
# nothing but what was in flight at the kill or asked before the server answered again.
judge() {
    local name=$1 count=$2 at_kill=$3 at_return=$4 connections=$5 log=$work/dnsperf.log sent lost failed_queries allowed
    sent=$(awk '/Queries sent:/ { print $3 }' "$log")
    lost=$(awk '/Queries lost:/ { print $3 }' "$log")
    failed_queries=$(awk '/^> / && $2 != "NOERROR" { n++ } END { print n + 0 }' "$log")
    allowed=0
    if [ "$count" = one ]; then allowed=$((at_return - at_kill + in_flight_max)); fi
    printf '      %s: killed at query %s, back at %s; sent %s, lost %s, not NOERROR %s; %s connections\n' \
        "$name" "$at_kill" "$at_return" "${sent:-?}" "${lost:-?}" "$failed_queries" "$connections"
    check "$name: about $per_second queries a second were sent" \
        [ "${sent:-0}" -ge $((seconds * per_second * 95 / 100)) ]
    check "$name: killed under load" [ "$at_kill" -gt $((kill_after * per_second / 2)) ]
    check "$name: at most $allowed queries lost or failed" \
        [ $((${lost:-1000000} + failed_queries)) -le "$allowed" ]
    check "$name: connections were kept" [ "$connections" -le 20 ]
}

make_certificates
write_zones
write_questions
start_nsd zone "$zone_port"
start_daemon "{ name = \"nsd\", addr = \"127.0.0.1:$zone_port\" }"
compare_all
check_clients
check_load
end daemon TERM
end zone TERM
for server in unbound dnsdist; do
    for protocol in tcp dot doh; do
        kill_and_restart "$server" "$protocol" one
        kill_and_restart "$server" "$protocol" two
    done
done

printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
