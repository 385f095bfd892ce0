-- Go on from checkpoints and journals.
obj.spec.suspend = false
return obj
