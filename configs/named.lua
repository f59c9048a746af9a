-- Upstreams by host name: looked up at the bootstrap servers, IPv6 before IPv4, again when the TTL is over.
return {
  listen = { dns = "127.0.0.1:5300" },
  upstreams = {
    { name = "quad9", addr = "dns.quad9.net:53" },
    { name = "cloudflare", addr = "one.one.one.one:53", protocol = "tcp" },
  },
  -- Without these the name servers of the system are asked.
  routing = { bootstrap = { "9.9.9.9", "1.1.1.1" } },
}
