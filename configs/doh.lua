-- DNS over HTTPS (RFC 8484), on both sides, and without TLS behind a proxy that has the certificate.

return {
  listen = {
    dns = "127.0.0.1:5300",
    doh = ":443",
    doh_path = "/dns-query",
    tls_cert_file = "tls/fullchain.pem",
    tls_key_file = "tls/privkey.pem",

    -- For a proxy on this machine. It says in Forwarded or X-Forwarded-For whose request it is;
    -- from anybody else these headers count for nothing.
    doh_plain = "127.0.0.1:8053",
    trusted_proxies = { "127.0.0.1" },
  },
  upstreams = {
    -- The host is looked up at the bootstrap servers.
    { name = "cloudflare", protocol = "doh", doh_url = "https://cloudflare-dns.com/dns-query" },
    -- With an address nothing has to be looked up; the certificate is for the host of the URL still.
    {
      name = "quad9",
      protocol = "doh",
      doh_url = "https://dns.quad9.net/dns-query",
      addr = "9.9.9.9:443",
    },
  },
  routing = {
    bootstrap = { "9.9.9.9", "1.1.1.1" },
    -- Firefox then leaves its own DNS over HTTPS off, unless somebody has switched it on by hand.
    firefox_canary = true,
  },
}
