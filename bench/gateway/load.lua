-- One POST again and again; what wrk counted is told as one line of JSON. The file of the body, the key and the path
-- come as arguments: wrk ... -s load.lua URL -- BODY_FILE KEY
function init(arguments)
  local file = assert(io.open(arguments[1], "rb"))
  wrk.method = "POST"
  wrk.body = file:read("*a")
  file:close()
  wrk.headers["Content-Type"] = "application/json"
  if arguments[2] and arguments[2] ~= "" then
    wrk.headers["Authorization"] = "Bearer " .. arguments[2]
  end
  request = wrk.format()
  wrk.request = function() return request end
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"seconds":%.6f,"p50_ms":%.4f,"p99_ms":%.4f,"failed":%d,"refused":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.timeout, errors.status))
end
