"""`train --replay STEP`: compute a step of a run again, and show its batch, its loss and its gradients.

`start` chooses where to begin, `job` trains forward to the step, `measure` looks at it, `results` has what was found,
`sheet` draws the batch, `command` is the command.
"""
