"""The rules of a bulk run. Pure: no I/O, no clock.

::

    decide       the states of an edit, the moves between states, and the next action for an edit
    identity     the identity of an edit, and the names of its files
    signatures   presigned URLs without their signatures
    item         one row of a source              rows      a table's columns and cells
    budget       the limits on costs, tasks and failures
    plan         BatchPlan                        report    BatchReport
"""
