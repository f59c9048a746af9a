-- DNS over TLS (RFC 7858), on both sides. Plain DNS stays for clients that know nothing better; those
-- that ask find the encrypted listener by themselves (RFC 9462).

return {
  listen = {
    dns = "127.0.0.1:5300",
    dot = ":853",
    -- In PEM; the chain begins with our own certificate. Paths start at the folder of this file.
    tls_cert_file = "tls/fullchain.pem",
    tls_key_file = "tls/privkey.pem",
    -- The certificate has to be for this name and, so that clients believe the announcement, for
    -- the address at which they ask in plain DNS.
    ddr = "dns.example.net",
  },
  upstreams = {
    -- The certificate has to be for this name. Without the key it would have to be for the address.
    { name = "quad9", protocol = "dot", addr = "9.9.9.9:853", tls_server_name = "dns.quad9.net" },
    -- Looked up at the bootstrap servers; the certificate has to be for the name.
    { name = "cloudflare", protocol = "dot", addr = "one.one.one.one:853" },
    -- Our own server, with a certificate of our own authority.
    {
      name = "corp",
      protocol = "dot",
      addr = "192.0.2.53:853",
      zones = { "corp.example" },
      tls_server_name = "ns.corp.example",
      tls_ca_file = "tls/corp-ca.pem",
    },
  },
  routing = { bootstrap = { "9.9.9.9", "1.1.1.1" } },
}
