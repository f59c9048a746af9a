-- Other rules for some clients. Of several networks around a client the longest prefix counts; what a
-- group does not say is as for everybody.

return {
  listen = { dns = ":5300" },
  -- A group with plugins of its own needs the policy before the cache.
  routing = { chain = { "blacklist", "hosts", "lua_policy", "cache", "upstream" } },

  -- Servers in a pool are asked only for those who are sent there.
  pools = { { name = "family" } },
  upstreams = {
    { name = "quad9", addr = "9.9.9.9:53" },
    { name = "family-1", addr = "1.1.1.3:53", pool = "family" },
    { name = "family-2", addr = "1.0.0.3:53", pool = "family" },
  },

  blacklist = { domains = { "*.ads.example" } },
  plugins = {
    enabled = true,
    -- `default = false`: only for groups that name it.
    entries = { { name = "homework", path = "policy.example", default = false } },
  },

  groups = {
    {
      name = "children",
      clients = { "192.168.1.64/26", "fd00:1:64::/64" },
      pool = "family",
      plugins = { "homework" },
      blacklist = { domains = { "*.ads.example", "*.games.example" }, mode = "nxdomain" },
    },
    -- One machine among them: nothing is blocked, no plugin is asked.
    { name = "console", clients = { "192.168.1.70" }, blacklist = false, plugins = false },
  },
}
