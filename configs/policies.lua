-- A script that decides about questions: it may block, answer, rewrite or send them elsewhere. See
-- policy.example beside this file.

return {
  listen = { dns = "127.0.0.1:5300" },
  -- Policies are asked before the cache: then they may look at who asks, and choose who is asked.
  routing = { chain = { "blacklist", "hosts", "lua_policy", "cache", "upstream" } },
  plugins = {
    enabled = true,
    timeout_ms = 20,
    on_error = "servfail", -- what becomes of a question if a plugin fails
    disable_after_failures = 100,
    entries = {
      { name = "example", path = "policy.example" },
      -- Any executable, kept running: a line of JSON for each question.
      -- { name = "filter", runtime = "exec", mode = "worker", path = "/usr/local/bin/filter" },
    },
  },
  upstreams = { { name = "quad9", addr = "9.9.9.9:53" } },
}
