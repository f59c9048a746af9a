-- An example of a policy: what BalanceDNS does with a question before it asks upstream.
--
--   plugins = {
--     enabled = true,
--     entries = { { name = "policy", path = "scripts/policy.lua" } },
--   }
--
-- `handle` is called for each question that gets as far as `lua_policy` in routing.chain. Everything
-- outside of it runs once per worker, so tables that do not change belong here. docs/POLICIES.md has
-- the whole contract.

-- Names that are blocked with everything below them. Long lists belong into blacklist.files.
local blocked = {
  ["tracker.example."] = true,
  ["ads.example.net."] = true,
}

-- Names with addresses of their own.
local addresses = {
  ["printer.home.arpa."] = { "192.168.1.20" },
  ["nas.home.arpa."] = { "192.168.1.30", "fd00::30" },
}

-- Search engines that are asked for their safe results. The client sees a CNAME to the other name.
local safe_search = {
  ["www.google.com."] = "forcesafesearch.google.com.",
  ["www.bing.com."] = "strict.bing.com.",
  ["duckduckgo.com."] = "safe.duckduckgo.com.",
}

-- Clients that get safe results. `question.client` is only told where `lua_policy` stands before
-- `cache` in routing.chain; else the rule would hold for everybody or for nobody.
local children = { "192.168.1.128/26", "fd00:0:0:1::/64" }

local function is_child(client)
  if client == nil then
    return false
  end
  for _, prefix in ipairs(children) do
    if dns.in_prefix(client, prefix) then
      return true
    end
  end
  return false
end

function handle(question)
  -- "a.tracker.example.", "tracker.example.", "example.", "."
  for _, name in ipairs(dns.suffixes(question.domain)) do
    if blocked[name] then
      return "BLOCK"
    end
  end

  local ips = addresses[question.domain]
  if ips then
    return { action = "LOCAL_DATA", local_data = { ttl = 300, ips = ips } }
  end

  local safe = safe_search[question.domain]
  if safe and is_child(question.client) then
    return { action = "REWRITE", rewrite_domain = safe }
  end

  -- Names that change often: an answer is kept for half a minute at most.
  if dns.below(question.domain, "dyn.example.org.") then
    return { action = "FORWARD", max_ttl = 30 }
  end

  -- ANY over UDP is mostly asked by those who want large answers sent to somebody else.
  if question.type == "ANY" and question.transport == "udp" then
    return "TRUNCATE"
  end

  return nil -- the same as "FORWARD"
end
