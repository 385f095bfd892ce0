-- Health of a CAIPipeline, from what its operator writes into the status: the conditions Suspended, Degraded and Ready,
-- in this order, and what is being worked on. Nothing but the base library is used: Argo CD offers little more.

local function progressing(message)
  return { status = "Progressing", message = message }
end

if obj.metadata.deletionTimestamp ~= nil then
  return progressing("is being deleted")
end

local status = obj.status
if status == nil or status.observedGeneration == nil then
  return progressing("waits for the operator")
end
if obj.metadata.generation ~= nil and obj.metadata.generation ~= status.observedGeneration then
  return progressing("waits for the operator to look at the changed spec")
end

-- the condition of a type where it is true, else nil
local function holds(kind)
  for _, condition in ipairs(status.conditions or {}) do
    if condition.type == kind and condition.status == "True" then
      return condition
    end
  end
  return nil
end

-- the texts that are not empty, with "; " between them
local function joined(...)
  local given = {}
  for index = 1, select("#", ...) do
    local text = select(index, ...)
    if text ~= nil and text ~= "" then
      table.insert(given, text)
    end
  end
  return table.concat(given, "; ")
end

local degraded = holds("Degraded")
local trouble = degraded and degraded.reason .. ": " .. (degraded.message or "") or ""
local stages = (status.progress or "0/0") .. " stages done"

if holds("Suspended") then
  return { status = "Suspended", message = joined("suspended", stages, trouble) }
end
if degraded then
  local goes_on = degraded.reason == "StageFailed" or degraded.reason == "GateNotMet"
  local rest = status.activity or ""
  if goes_on and rest ~= "" then
    trouble = joined(trouble, "meanwhile " .. rest)
  end
  return { status = "Degraded", message = trouble }
end
if holds("Ready") then
  local served = status.endpoint and "served at " .. status.endpoint or ""
  return { status = "Healthy", message = joined(stages, served) }
end
local work = status.activity or ""
if work == "" then
  work = status.message
end
return progressing(joined(work, stages))
