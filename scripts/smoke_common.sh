# What the smoke tests share: counting checks, processes that are ended whatever happens, nsd with its
# zones, and what clients see. To be sourced.

work=$(mktemp -d)
declare -A groups=()
passed=0 failed=0
# How kdig verifies the daemon, where there is something to verify.
kdig_tls=()

pass() { printf 'PASS  %s\n' "$1"; passed=$((passed + 1)); }
fail() { printf 'FAIL  %s\n' "$1"; failed=$((failed + 1)); }
check() { if "${@:2}"; then pass "$1"; else fail "$1"; fi; }

# --- processes -----------------------------------------------------------------------------------

# Starts a command in a process group of its own, under a name: nsd has children.
start() {
    local name=$1
    shift
    setsid "$@" >"$work/$name.log" 2>&1 &
    groups[$name]=$!
}

# Ends a process group that `start` made.
end() {
    local name=$1 signal=$2
    kill "-$signal" -- "-${groups[$name]}" 2>/dev/null || true
    wait "${groups[$name]}" 2>/dev/null || true
    unset "groups[$name]"
}

clean_up() {
    for name in "${!groups[@]}"; do end "$name" KILL; done
    rm -rf "$work"
}
trap clean_up EXIT

# Tries a command until it succeeds, 10 s at most.
wait_for() {
    local what=$1
    shift
    for _ in $(seq 200); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.05
    done
    echo "gave up waiting for $what" >&2
    tail -n 20 "$work"/*.log >&2
    exit 1
}

start_nsd() {
    local name=$1 port=$2
    mkdir -p "$work/$name"
    cat >"$work/$name/nsd.conf" <<CONF
server:
    ip-address: 127.0.0.1@$port
    do-ip6: no
    username: ""
    chroot: ""
    zonesdir: "$work"
    database: ""
    pidfile: "$work/$name/pid"
    xfrdfile: "$work/$name/xfrd"
    zonelistfile: "$work/$name/zones"
    xfrdir: "$work/$name"
    server-count: 1
    minimal-responses: yes
    ipv4-edns-size: 1232
    rrl-ratelimit: 0
remote-control:
    control-enable: no
zone:
    name: "smoke.example"
    zonefile: "smoke.zone"
zone:
    name: "perf.example"
    zonefile: "perf.zone"
CONF
    start "$name" nsd -d -c "$work/$name/nsd.conf"
    wait_for "nsd on port $port" dig @127.0.0.1 -p "$port" +time=1 +tries=1 smoke.example SOA
}

# --- zones and questions -------------------------------------------------------------------------

# $1 strings of 250 octets: one TXT record.
long_text() {
    local string
    string=$(printf 'x%.0s' $(seq 250))
    for _ in $(seq "$1"); do printf ' "%s"' "$string"; done
}

write_zones() {
    {
        echo '$ORIGIN smoke.example.'
        echo '$TTL 300'
        echo '@ SOA ns hostmaster 1 3600 900 86400 60'
        echo '@ NS ns'
        echo '@ MX 10 mail'
        echo 'ns A 127.0.0.1'
        echo 'mail A 192.0.2.25'
        for i in $(seq 500); do echo "a$i A 192.0.2.$((i % 250 + 1))"; done
        for i in $(seq 100); do echo "six$i AAAA 2001:db8::$i"; done
        for i in $(seq 100); do echo "both$i A 198.51.100.$i"; echo "both$i AAAA 2001:db8:1::$i"; done
        # Chains of up to eight CNAMEs, within the zone and out of it.
        for i in $(seq 80); do
            if [ $((i % 8)) -eq 0 ]; then echo "chain$i CNAME a$i"; else echo "chain$i CNAME chain$((i + 1))"; fi
        done
        for i in $(seq 10); do echo "out$i CNAME host$i.elsewhere.example."; done
        # Above 512, above 1232 and above 4096 octets.
        for i in $(seq 40); do echo "text$i TXT$(long_text 3)"; done
        for i in $(seq 40); do echo "big$i TXT$(long_text $((5 + i % 8)))"; done
        for i in $(seq 20); do echo "huge$i TXT$(long_text $((17 + i * 8)))"; done
        for i in $(seq 250); do echo "many A 203.0.113.$i"; done
        echo '*.wild A 192.0.2.77'
        echo '*.wild TXT "a wildcard"'
        for i in $(seq 10); do
            echo "odd$i TYPE65280 \\# 4 0A0000$(printf %02X "$i")"
            echo "odd$i HTTPS 1 . alpn=h2,h3 ipv4hint=192.0.2.$i"
            echo "odd$i SVCB 1 svc$i port=853"
            echo "odd$i CAA 0 issue \"ca$i.example\""
            echo "odd$i NAPTR 100 $i \"S\" \"SIP+D2U\" \"\" _sip._udp.example.com."
            echo "odd$i SSHFP 1 1 123456789abcdef67890123456789abcdef678$(printf %02x "$i")"
            echo "odd$i LOC 52 22 23.000 N 4 53 $i.000 E -2.00m 0.00m 10000m 10m"
            echo "odd$i SRV 0 5 5060 a$i"
            echo "odd$i TLSA 3 1 1 $(printf '%02x' "$i")$(printf 'ab%.0s' $(seq 31))"
            echo "odd$i PTR a$i"
            echo "odd$i HINFO \"cpu$i\" \"os\""
        done
        echo 'd DNAME a1.smoke.example.'
        echo 'Mixed-Case A 192.0.2.99'
        echo 'esc\.aped A 192.0.2.98'
        echo 'sub NS ns.sub'
        echo 'ns.sub A 192.0.2.53'
    } >"$work/smoke.zone"
    {
        echo '$ORIGIN perf.example.'
        echo '$TTL 300'
        echo '@ SOA ns hostmaster 1 3600 900 86400 60'
        echo '@ NS ns'
        echo 'ns A 127.0.0.1'
        echo '*.w A 192.0.2.80'
    } >"$work/perf.zone"
}

# A thousand names and more, each with its type: what there is, and what there is not.
write_questions() {
    {
        for i in $(seq 500); do echo "a$i A"; done
        for i in $(seq 100); do echo "six$i AAAA"; done
        for i in $(seq 100); do echo "both$i $([ $((i % 2)) -eq 0 ] && echo A || echo AAAA)"; done
        for i in $(seq 80); do echo "chain$i A"; done
        for i in $(seq 10); do echo "out$i A"; echo "out$i AAAA"; done
        for i in $(seq 40); do echo "text$i TXT"; echo "big$i TXT"; done
        for i in $(seq 20); do echo "huge$i TXT"; done
        echo "many A"
        for i in $(seq 50); do echo "w$i.wild A"; done
        for i in $(seq 10); do echo "a.b$i.wild TXT"; echo "w$i.wild MX"; done
        for i in $(seq 10); do
            for type in TYPE65280 TYPE65 TYPE64 CAA NAPTR SSHFP LOC SRV TLSA PTR HINFO; do echo "odd$i $type"; done
        done
        echo "x.d A"
        echo "mIXED-cASE A"
        echo 'esc\.aped A'
        echo "x.sub A"
        for i in $(seq 50); do echo "missing$i A"; echo "a$i MX"; done
    } | awk '{ print $1 ".smoke.example.", $2 }' >"$work/questions"
    { echo "smoke.example. SOA"; echo "smoke.example. NS"; echo "smoke.example. MX"; } >>"$work/questions"
    # kdig takes many questions at once; each repeats its name and type as options.
    sed -E 's/^(.*) (.*)$/-q \1 -t \2/; s/\\/\\\\/g' "$work/questions" >"$work/kdig-questions"
}

# --- comparing clients' views --------------------------------------------------------------------

# From the output of dig, kdig or drill: one line per rcode and per record of each question, in an
# order that does not depend on the server's, without TTLs (a cached one has aged).
normalise() {
    awk '
        /->>HEADER<<-/ { n++; for (i = 1; i < NF; i++) if ($i ~ /^(status:|rcode:)$/) rcode = $(i + 1)
                         gsub(/[,;]/, "", rcode); print n, "rcode", rcode; next }
        /^;;/ || /^;/ || /^$/ { next }
        { name = tolower($1); $1 = ""; if ($2 ~ /^[0-9]+$/) $2 = ""; print n, name, $0 }
    ' | tr -s ' \t' ' ' | sort
}

# Each client asks all questions: transport, port.
ask_dig() {
    local transport=+notcp
    if [ "$1" = tcp ]; then transport=+tcp; fi
    dig @127.0.0.1 -p "$2" "$transport" +tries=1 +time=5 +noall +comments +answer +authority \
        +nocookie +bufsize=1232 -f "$work/questions" | normalise
}
ask_kdig() {
    # For kdig, +notcp would also mean not to go on with TCP after TC.
    local options=()
    case $1 in
        tcp) options=(+tcp) ;;
        tls) options=("${kdig_tls[@]}" +tls) ;;
        https-post) options=("${kdig_tls[@]}" +https=/dns-query) ;;
        https-get) options=("${kdig_tls[@]}" +https=/dns-query +https-get) ;;
    esac
    xargs -L 100 kdig @127.0.0.1 -p "$2" "${options[@]}" +retry=0 +timeout=5 +noall +header +answer +authority \
        +bufsize=1232 <"$work/kdig-questions" 2>"$work/kdig.log" | normalise
}
ask_drill() {
    local transport=-u name type
    if [ "$1" = tcp ]; then transport=-t; fi
    while read -r name type; do
        drill -a "$transport" -p "$2" "$name" @127.0.0.1 "$type" </dev/null |
            awk '/^;; ADDITIONAL/ { exit } { print }'
    done <"$work/questions" | normalise
}

# What a client sees through the daemon, at this port, against what it sees at the server itself.
compare() {
    local client=$1 transport=$2 what=$3 port=$4 questions answers
    questions=$(wc -l <"$work/questions")
    "ask_$client" "$transport" "$port" >"$work/seen"
    answers=$(grep -c ' rcode ' "$work/seen" || true)
    if [ "$answers" -ne "$questions" ]; then
        fail "$client over $transport, $what: $answers of $questions questions answered"
    elif ! diff "$work/direct-$client" "$work/seen" >"$work/differences"; then
        fail "$client over $transport, $what: answers differ from the server's own"
        head -n 20 "$work/differences" | cut -c 1-160
    else
        pass "$client over $transport, $what: $questions answers are the server's own, $(wc -l <"$work/seen") lines"
    fi
}

# --- questions -----------------------------------------------------------------------------------

ask() { dig @127.0.0.1 -p "$daemon_port" +tries=1 +time=5 "$@"; }

# Looks for a pattern in the reply to a question.
says() {
    local pattern=$1
    shift
    ask "$@" | grep -qE "$pattern"
}
