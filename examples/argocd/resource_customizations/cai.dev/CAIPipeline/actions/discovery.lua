-- What may be done with a CAIPipeline now.

local function any_failed(nodes)
  for _, node in ipairs(nodes or {}) do
    -- a stage of several parts may also fail at its gate, where running them again would change nothing
    local has_parts = node.parts ~= nil and #node.parts > 0
    if has_parts and any_failed(node.parts) or not has_parts and node.state == "Failed" then
      return true
    end
  end
  return false
end

local suspended = obj.spec.suspend == true
local failed = obj.status ~= nil and any_failed(obj.status.stages)

return {
  suspend = { disabled = suspended, iconClass = "fa fa-fw fa-pause" },
  resume = { disabled = not suspended, iconClass = "fa fa-fw fa-play" },
  retry = { disabled = not failed, iconClass = "fa fa-fw fa-redo" },
}
