#!/bin/sh
# A policy as a shell script. It serves both modes: run once for each question, it reads one line of
# JSON; kept running, as many as there are, each with an id that goes back with the answer. It starts
# no other program, so that a question costs little. What it decides is what examples/src/policy.rs
# decides too.

while read -r line; do
    case $line in
    '{"id":'*)
        id=${line#'{"id":'}
        id="\"id\":${id%%,*},"
        ;;
    *) id= ;;
    esac
    # Within a name JSON has a backslash before each quotation mark, so no name can look like more
    # than it is.
    domain=${line#*'"domain":"'}
    domain=${domain%%\"*}
    case $domain in
    ads.example. | *.ads.example.)
        decision='"action":"BLOCK"'
        ;;
    www.search.example.)
        decision='"action":"REWRITE","rewrite_domain":"safe.search.example."'
        ;;
    printer.example.)
        decision='"action":"LOCAL_DATA","local_data":{"ttl":300,"ips":["192.0.2.10","2001:db8::10"]}'
        ;;
    *)
        decision='"action":"FORWARD"'
        ;;
    esac
    printf '{%s%s}\n' "$id" "$decision"
done
