-- Records that are answered here, as they stand in a zone file: owner, TTL, class, type, data. TTL (60)
-- and class (IN) may be left out. Names are absolute, the dot at their end may be left out.

return {
  listen = { dns = "127.0.0.1:5300" },
  local_records = {
    "nas.lan.example.              300 IN A     192.0.2.7",
    "nas.lan.example.              300 IN AAAA  2001:db8::7",
    "7.2.0.192.in-addr.arpa.       300 IN PTR   nas.lan.example.",

    -- Every name below apps.lan.example that is not listed itself.
    "*.apps.lan.example.               CNAME    nas.lan.example.",
    "legacy.apps.lan.example.          A        192.0.2.8",

    "_ipp._tcp.lan.example.            SRV      0 0 631 printer.lan.example.",
    "printer.lan.example.              A        192.0.2.40",
    'lan.example.                      TXT      "no mail from here" "v=spf1 -all"',
    "lan.example.                  1h  MX       10 nas.lan.example.",
    "www.lan.example.                  HTTPS    1 nas.lan.example. alpn=h2,h3 port=8443",

    -- A type without a text form, in that of RFC 3597.
    [[data.lan.example.                TYPE65280 \# 4 01020304]],
  },
  -- Names of the public DNS do not lead to private addresses; these may.
  rebinding = { enabled = true, allow = { "*.lan.example" } },
  upstreams = { { name = "quad9", addr = "9.9.9.9:53" } },
}
