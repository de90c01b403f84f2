"""Bulk runs that can be interrupted and resumed.

::

    batch        EditBatch: bulk runs
    hub          EditHub: edits on demand           server     a hub over HTTP
    intake       the loop over the edits of a run   input      the input of a run: requests or a source
    survey       the plan of a run, from the input and the journal
    run          the state that the edits of one run share
    row          one edit, from its state in the journal to its saved pictures
    publish      report.html and report.json        output     the folder of the results
    fingerprint  hashes of images                   counts     the repeated and missing rows of a source
    worker       blocking calls on one thread       price      the price of a picture
    outcome      BatchOutcome, BatchProgress
    journal/     SQLite, the run lock               sources/   folders, tables, data frames
    rules/       decisions, plans and reports, without I/O
"""

from qwen_edit_async.batch.batch import EditBatch as EditBatch
from qwen_edit_async.batch.hub import EditHub as EditHub
from qwen_edit_async.batch.journal.journal import JOURNAL_NAME as JOURNAL_NAME
from qwen_edit_async.batch.outcome import BatchOutcome as BatchOutcome
from qwen_edit_async.batch.outcome import BatchProgress as BatchProgress
from qwen_edit_async.batch.outcome import BatchStatus as BatchStatus
from qwen_edit_async.batch.rules.plan import BatchPlan as BatchPlan
from qwen_edit_async.batch.rules.plan import ParameterGroup as ParameterGroup
from qwen_edit_async.batch.rules.plan import RowProblem as RowProblem
from qwen_edit_async.batch.rules.report import BatchReport as BatchReport
from qwen_edit_async.batch.rules.report import FailureGroup as FailureGroup
from qwen_edit_async.batch.rules.report import Percentiles as Percentiles
