-- Which server is asked for which names. The longest matching zone counts, by whole labels; its
-- servers are asked in the order in which they stand here. If none of them answers, servers of less
-- specific zones are asked.

return {
  listen = { dns = "127.0.0.1:5300" },
  upstreams = {
    -- The company's own names, and the reverse zone of its addresses: two servers.
    { name = "corp-1", addr = "192.0.2.53:53", zones = { "corp.example", "2.0.192.in-addr.arpa" } },
    { name = "corp-2", addr = "192.0.2.54:53", zones = { "corp.example", "2.0.192.in-addr.arpa" } },

    -- A laboratory below them, over TCP only.
    { name = "lab", protocol = "tcp", addr = "192.0.2.80:53", zones = { "lab.corp.example" } },

    -- Everything else; no `zones` would mean the same.
    { name = "quad9", addr = "9.9.9.9:53", zones = { "." } },
    { name = "cloudflare", addr = "[2606:4700:4700::1111]:53", zones = { "." }, timeout_ms = 1500 },
  },
}
