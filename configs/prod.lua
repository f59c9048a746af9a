-- A start for a resolver in production over UDP and TCP. It starts as it is; what is likely to be
-- changed is marked with "change".

-- Change: name the servers to forward to. Until then, those of this system are used.
local servers = system_resolvers()
if #servers == 0 then
  warn("no name server of this system can be used: forwarding to Quad9 and Cloudflare instead")
  servers = { "9.9.9.9:53", "1.1.1.1:53" }
end

local upstreams = {}
for number, addr in ipairs(servers) do
  upstreams[number] = { name = "server-" .. number, addr = addr, timeout_ms = 1500 }
end

return {
  listen = {
    -- All addresses, IPv4 and IPv6. Change it to the address of one interface if another service
    -- holds port 53 on some address, as systemd-resolved does on 127.0.0.53.
    dns = env("BALANCEDNS_DNS_ADDR", ":53"),
    -- Health and metrics stay on this machine unless an address is named.
    metrics = env("BALANCEDNS_METRICS_ADDR", "127.0.0.1:9090"),
    max_connections = 4096,
    max_connections_per_client = 64,
  },

  logging = { level = env("BALANCEDNS_LOG_LEVEL", "info"), log_queries = false },

  -- Change: who may ask. These are the default, local and private addresses; an open resolver
  -- would be used for attacks on others.
  acl = {
    "127.0.0.0/8", "::1",
    "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7",
    "169.254.0.0/16", "fe80::/10",
  },

  upstreams = upstreams,

  routing = {
    chain = { "blacklist", "hosts", "cache", "upstream" },
    deadline_ms = 4500,
    attempts_max = 8,
    failover_on = { "SERVFAIL", "REFUSED", "NOTIMP" },
  },

  cache = {
    enabled = true,
    capacity = 200000,
    max_bytes = 256 * 1024 * 1024,
    min_ttl_seconds = 5,
    max_ttl_seconds = 3600,
    negative_max_ttl_seconds = 900,
    servfail_ttl_seconds = 5,
  },

  control = {
    restart_backoff_ms = 200,
    restart_max_backoff_ms = 5000,
    max_consecutive_failure = 0, -- never give up
    min_stable_run_ms = 10000,
    drain_timeout_ms = 5000,
  },
}
