-- The cache: how much of it there is, and how long answers stay.

return {
  listen = { dns = "127.0.0.1:5300" },
  cache = {
    capacity = 50000,            -- answers
    max_bytes = 64 * 1024 * 1024, -- and never more memory than this for them
    min_ttl_seconds = 30,        -- shorter TTLs are raised to this; 0 leaves them as they are
    max_ttl_seconds = 3600,      -- longer ones are cut
    negative_max_ttl_seconds = 300, -- names and types that do not exist
    servfail_ttl_seconds = 5,    -- failures; 0 keeps none
  },
  upstreams = { { name = "quad9", addr = "9.9.9.9:53" } },
}
