-- Names answered from a file in the format of /etc/hosts. The path starts at this file's folder.
-- A, AAAA and ANY are answered, and PTR for the addresses in it; other types of a listed name
-- exist without data.

return {
  listen = { dns = "127.0.0.1:5300" },
  hosts = { file = "hosts.example", ttl = 60 },
  upstreams = { { name = "quad9", addr = "9.9.9.9:53" } },
}
