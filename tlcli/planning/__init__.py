"""Planning: from the measured evidence to one of the four cases, its plan and its forecast.

`measure` measures a folder, `decision` decides its case, `plan` makes the plan, `explain` says why
in sentences. Deciding needs no torch; only `measure`, `similarity`, `linear_probe`, `stage_probes`
and `views` do.
"""
