-- Stop all jobs and servers; their GPUs are free, and what was done stays.
obj.spec.suspend = true
return obj
