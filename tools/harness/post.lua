-- POST one body repeatedly and report the outcome as one line of JSON.
-- Arguments: the file with the body, its content type.

local threads = {}

function setup(thread)
   table.insert(threads, thread)
end

function init(args)
   local file = assert(io.open(args[1], "rb"))
   wrk.method = "POST"
   wrk.body = file:read("*all")
   wrk.headers["Content-Type"] = args[2]
   file:close()
   statuses = {}
end

function response(status)
   statuses[status] = (statuses[status] or 0) + 1
end

function done(summary, latency)
   local total, parts = {}, {}
   for _, thread in ipairs(threads) do
      for status, count in pairs(thread:get("statuses")) do
         total[status] = (total[status] or 0) + count
      end
   end
   for status, count in pairs(total) do
      table.insert(parts, string.format('"%d": %d', status, count))
   end
   io.write(string.format(
      '{"seconds": %.6f, "statuses": {%s}, "p50_ms": %.3f, "p99_ms": %.3f, "max_ms": %.3f, '
         .. '"errors": {"connect": %d, "read": %d, "write": %d, "timeout": %d}}\n',
      summary.duration / 1e6, table.concat(parts, ", "),
      latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3,
      summary.errors.connect, summary.errors.read, summary.errors.write, summary.errors.timeout
   ))
end
