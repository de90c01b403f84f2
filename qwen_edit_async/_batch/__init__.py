"""The durable bulk run.

::

    _run         EditBatch
    _publish     report.html and report.json
    _survey      the input and the journal, looked at beforehand      _input   requests, or a source of them
    _intake      the input, and a bounded number of rows at work
    _row         one edit: submit, wait, save; journals each step before it relies on it
    _journal     SQLite for coroutines: one thread, group commit     _lock      one run at a time
    _aside       ids of tasks that the journal could not take, kept beside it for the next run
    _store       SQLite: schema, steps      _tally   its sums        _content   hashes of images, checks of files
    _upgrade     names and hashes of journals of earlier versions
    _outcomes    SQLite: what became of each edit                    _sqlite    how it is opened for reading; its errors
    ------------------------------------------------------------------ pure below
    _report      BatchReport                  _forecast   BatchPlan
    _plan        states and legal moves, keys and hashes, budget
"""

from ._forecast import BatchPlan as BatchPlan
from ._forecast import ParameterGroup as ParameterGroup
from ._forecast import RowProblem as RowProblem
from ._journal import JOURNAL_NAME as JOURNAL_NAME
from ._outcomes import BatchOutcome as BatchOutcome
from ._outcomes import BatchStatus as BatchStatus
from ._report import BatchReport as BatchReport
from ._report import FailureGroup as FailureGroup
from ._report import Percentiles as Percentiles
from ._run import BatchProgress as BatchProgress
from ._run import EditBatch as EditBatch
