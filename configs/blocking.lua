-- Names that are answered with REFUSED. Listing many of them costs memory, but no time.

-- A list of its own, to show that a configuration is a program.
local domains = {
  "ads.example",       -- this name only
  "*.tracker.example", -- every name below it, but not tracker.example itself
  ".metrics.example",  -- another way to say *.metrics.example
}
-- A name and everything below it takes two entries.
for _, name in ipairs({ "spam.example", "phishing.example" }) do
  table.insert(domains, name)
  table.insert(domains, "*." .. name)
end

return {
  listen = { dns = "127.0.0.1:5300" },
  blacklist = { domains = domains },
  upstreams = { { name = "quad9", addr = "9.9.9.9:53" } },
}
