-- Lists of blocked names: files in hosts format, plain names, wildcards, simple adblock lines, and the
-- same from URLs, which are fetched in the background. See docs/BLOCKLISTS.md.

return {
  listen = { dns = "127.0.0.1:5300" },
  blacklist = {
    files = { "blocklist.example" },
    -- urls = { "https://lists.example/hosts.txt" },
    -- refresh_seconds = 86400,
    allow = { "good.ads.example" }, -- whatever the lists say
    mode = "nxdomain",              -- or refused, nodata, zero, addresses
    ttl = 60,
  },
  upstreams = { { name = "quad9", addr = "9.9.9.9:53" } },
}
