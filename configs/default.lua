-- What BalanceDNS does when it is started without -config: it answers local clients on an
-- unprivileged port and forwards to the name servers that this system uses itself.

local servers = system_resolvers()
if #servers == 0 then
  warn("no name server of this system can be used: forwarding to Quad9 and Cloudflare instead")
  servers = {
    "9.9.9.9:53", -- Quad9
    "1.1.1.1:53", -- Cloudflare
  }
end

local upstreams = {}
for number, addr in ipairs(servers) do
  upstreams[number] = { name = "server-" .. number, protocol = "udp", addr = addr }
end

return {
  listen = {
    -- Not 5353, which mDNS services hold on desktops.
    dns = env("BALANCEDNS_DNS_ADDR", "127.0.0.1:5300"),
    metrics = env("BALANCEDNS_METRICS_ADDR", "127.0.0.1:9090"),
  },
  cache = { enabled = true },
  upstreams = upstreams,
}
