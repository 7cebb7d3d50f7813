"""Every stage Concord knows. The only module that imports the stage packages."""

from data_prep.cleaning.stage import check_clean, clean, observe_sources
from data_prep.masks.stage import deduplicate, observe_tests
from data_prep.tokenizer.foreign_files import observe_tokenizer
from data_prep.tokenizer.import_stage import check_tokenizer, import_tokenizer
from data_prep.tokenizer.stage import train_tokenizer
from data_prep.tokens.stage import tokenize
from eval.stage import evaluate
from eval.tasks.observed import check_tasks, observe_tasks
from pipeline.export.stage import export
from pipeline.graph.stage import stage
from pipeline.report.stage import check_report, observe_templates, report
from training.init.locate import observe_init_from
from training.log.metrics_file import METRICS_FILE
from training.records import rank_file_digests
from training.stage import train

STAGES = {
    "clean": stage(clean, version=5, observe=observe_sources, check=check_clean, reads_to_the_end=True),
    "deduplicate": stage(
        deduplicate,
        version=2,
        observe=observe_tests,
        before={"earlier": "corpus"},
        own_before={"earlier_masks": lambda config: config.keeps_one_of_several},
    ),
    "train_tokenizer": stage(train_tokenizer, version=2),
    "import_tokenizer": stage(import_tokenizer, version=1, observe=observe_tokenizer, check=check_tokenizer),
    "tokenize": stage(tokenize, version=3),
    "train": stage(
        train, version=6, observe=observe_init_from, file_digests=rank_file_digests, progress_file=METRICS_FILE
    ),
    "evaluate": stage(
        evaluate,
        version=5,
        observe=observe_tasks,
        check=check_tasks,
        follows=lambda config: config.checkpoints == "every",
    ),
    "export": stage(export, version=4),
    "report": stage(report, version=8, observe=observe_templates, check=check_report),
}
