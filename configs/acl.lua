-- Who may ask; everybody else gets REFUSED. Without `acl`, or with an empty one, those are
-- loopback, private and link-local addresses.

return {
  listen = { dns = ":5300" },
  acl = {
    "127.0.0.0/8", "::1",
    "192.0.2.0/24",      -- the office
    "2001:db8:1::/48",
    "198.51.100.7",      -- one machine elsewhere
    -- Everybody would be both of "0.0.0.0/0" and "::/0".
  },
  upstreams = { { name = "quad9", addr = "9.9.9.9:53" } },
}
