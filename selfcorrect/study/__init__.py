"""The study of the paper as a plan of public commands: what each table needs, at each scale.

`graph` has the records and turns them into steps, `shipped` the studies as data, `forecast` what steps take.
"""
