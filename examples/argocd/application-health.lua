-- Health of an Application, taken over from itself: with it the sync waves of an application of applications wait for one
-- another. Argo CD has had none of its own since 1.8.

local health = obj.status and obj.status.health
if health == nil or health.status == nil then
  return { status = "Progressing", message = "waits for Argo CD to look at it" }
end
return { status = health.status, message = health.message or "" }
