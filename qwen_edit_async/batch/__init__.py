"""The durable bulk run.

::

    batch         EditBatch
    publish      report.html and report.json
    survey       the input and the journal, looked at beforehand      input    requests, or a source of them
    intake       the input, and a bounded number of rows at work
    row          one edit: submit, wait, save; journals each step before it relies on it
    journal      SQLite for coroutines: one thread, group commit     lock       one run at a time
    aside        ids of tasks that the journal could not take, kept beside it for the next run
    database       SQLite: schema, steps      tally    its sums        content    hashes of images, checks of files
    upgrade      names and hashes of journals of earlier versions
    outcomes     SQLite: what became of each edit                    sqlite     how it is opened for reading; its errors
    ------------------------------------------------------------------ pure below
    report       BatchReport                  forecast    BatchPlan
    plan         states and legal moves, keys and hashes, budget
"""

from qwen_edit_async.batch.batch import BatchProgress as BatchProgress
from qwen_edit_async.batch.batch import EditBatch as EditBatch
from qwen_edit_async.batch.forecast import BatchPlan as BatchPlan
from qwen_edit_async.batch.forecast import ParameterGroup as ParameterGroup
from qwen_edit_async.batch.forecast import RowProblem as RowProblem
from qwen_edit_async.batch.journal.journal import JOURNAL_NAME as JOURNAL_NAME
from qwen_edit_async.batch.outcomes import BatchOutcome as BatchOutcome
from qwen_edit_async.batch.outcomes import BatchStatus as BatchStatus
from qwen_edit_async.batch.report import BatchReport as BatchReport
from qwen_edit_async.batch.report import FailureGroup as FailureGroup
from qwen_edit_async.batch.report import Percentiles as Percentiles
