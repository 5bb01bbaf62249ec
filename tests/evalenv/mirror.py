"""The 16 data sets (and OpenVision 3's five) as small folders in their true schema, with media drawn here.

    build_mirror(root)       # run lmms-eval with root as its working directory and HF_HOME

`datasets.load_dataset("owner/name")` prefers a folder of that relative name, and lmms-eval skips its download
where the folder of videos exists: so the task files run as they are, without a network. Columns are those of
the published tables; texts are made up, and a question has its answer from the drawn truth where that
fits.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

from onevision_hf.synthetic import ClipSettings, DrawnImage, Question, ask_clip, draw_image, encode

SUBTASKS = {  # of MVBench, with the folder of its videos
    "object_interaction": "star/Charades_segment",
    "action_sequence": "star/Charades_segment",
    "action_prediction": "star/Charades_segment",
    "action_localization": "sta/sta_video_segment",
    "moving_count": "clevrer/video_validation",
    "fine_grained_pose": "nturgbd_convert",
    "character_order": "perception/videos",
    "object_shuffle": "perception/videos",
    "egocentric_navigation": "vlnqa",
    "moving_direction": "clevrer/video_validation",
    "episodic_reasoning": "tvqa/video_fps3_hq_segment",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "scene_transition": "scene_qa/video",
    "state_change": "perception/videos",
    "moving_attribute": "clevrer/video_validation",
    "action_antonym": "ssv2_video_mp4",
    "unexpected_action": "FunQA_test/test",
    "counterfactual_inference": "clevrer/video_validation",
    "object_existence": "clevrer/video_validation",
    "action_count": "perception/videos",
}
MLVU_TYPES = ("anomaly_reco", "count", "ego", "needle", "order", "plotQA", "topic_reasoning")
MME_CATEGORIES = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
    "commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning",
)  # fmt: skip
MMSTAR = {
    "coarse perception": "image scene and topic",
    "fine-grained perception": "recognition",
    "instance reasoning": "single-instance reasoning",
    "logical reasoning": "diagram reasoning",
    "science & technology": "biology & chemistry & physics",
    "math": "geometry",
}
OCRBENCH_TYPES = (
    "Regular Text Recognition", "Irregular Text Recognition", "Artistic Text Recognition",
    "Handwriting Recognition", "Digit String Recognition", "Non-Semantic Text Recognition",
    "Scene Text-centric VQA", "Doc-oriented VQA", "Key Information Extraction",
    "Handwritten Mathematical Expression Recognition",
)  # fmt: skip
SIDE = 64
CLIPS = 3


class Mirror:
    """Writes data sets below `root`; the drawn clips and images are made once and used everywhere."""

    def __init__(self, root: Path):
        self.root = root
        self.clips: list[tuple[bytes, list[Question]]] = []
        for index in range(CLIPS):
            clip, questions = ask_clip(
                0, index, settings=ClipSettings(num_frames=32, height=SIDE, width=SIDE)
            )
            self.clips.append((encode(clip.frames), questions))
        self.images: list[DrawnImage] = [draw_image(0, index) for index in range(6)]

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index % len(self.images)].pixels)

    def label(self, index: int, family: str = "colour") -> str:
        return str(self.images[index % len(self.images)].labels[family])

    def question(self, index: int) -> Question:
        """With four choices, whichever the family has."""
        _, questions = self.clips[index % CLIPS]
        found = questions[(index // CLIPS) % len(questions)]
        choices = [*found.choices, "none of these", "all of these", "it cannot be told"][:4]
        return Question(found.family, found.text, tuple(choices), found.answer)

    def video(self, path: str, index: int) -> str:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self.clips[index % CLIPS][0])
        return target.name

    def table(self, repo: str, split: str, rows: list[dict[str, Any]], config: str = "") -> None:
        """One split as parquet; pictures become image columns."""
        folder = self.root / repo / config
        folder.mkdir(parents=True, exist_ok=True)
        table = datasets.Dataset.from_list(rows)
        table.to_parquet(folder / f"{split}-00000-of-00001.parquet")

    def card(self, repo: str, configs: list[tuple[str, dict[str, str]]]) -> None:
        """The head of a data set's README, which says which files make up which split."""
        lines = ["---", "configs:"]
        for name, splits in configs:
            lines += [f"- config_name: {name}", "  data_files:"]
            for split, path in splits.items():
                lines += [f"  - split: {split}", f"    path: {path}"]
        (self.root / repo / "README.md").write_text("\n".join([*lines, "---", ""]))


def build_mirror(root: Path) -> Path:
    """All data sets below `root`, which is returned."""
    mirror = Mirror(root)
    for write in (mvbench, mlvu, nextqa, videomme, perceptiontest, tomato, longvideobench):
        write(mirror)
    for write in (ai2d, chartqa, docvqa, mmbench, ocrbench, ocrbench_v2, mmstar, realworldqa):
        write(mirror)
    for write in (mme, seedbench, scienceqa, gqa, pope):
        write(mirror)
    empty_wordnet(root / "nltk_data")
    return root


# -- videos --


def mvbench(m: Mirror) -> None:
    repo, configs = "OpenGVLab/MVBench", []
    (m.root / repo / "json").mkdir(parents=True)
    for number, (name, folder) in enumerate(SUBTASKS.items()):
        rows = []
        for index in range(2):
            question = m.question(number + index)
            video = m.video(f"mvbench_video/{folder}/{name}-{index}.mp4", number + index)
            rows.append(
                {
                    "video": video,
                    "question": question.text,
                    "candidates": list(question.choices),
                    "answer": question.label,
                }
            )
        (m.root / repo / "json" / f"{name}.json").write_text(json.dumps(rows))
        configs.append((name, {"train": f"json/{name}.json"}))
    m.card(repo, configs)


def mlvu(m: Mirror) -> None:
    rows = []
    for index, kind in enumerate(MLVU_TYPES):
        question = m.question(index)
        # Two types ask about one video, as in the benchmark.
        name = m.video(f"mlvu/video-{index // 2}.mp4", index // 2)
        options = "\n".join(f"({x}) {c}" for x, c in zip("ABCD", question.choices, strict=True))
        rows.append(
            {
                "video_name": name,
                "duration": 2.0,
                "question": f"{question.text}\n{options}",
                "candidates": str(list(question.choices)),
                "answer": question.answer,
                "task_type": kind,
            }
        )
    m.table("sy1998/MLVU_dev", "test", rows)


def nextqa(m: Mirror) -> None:
    rows = []
    for index in range(4):
        question = m.question(index)
        m.video(f"nextqa/NExTVideo/{7000 + index // 2}.mp4", index // 2)
        choices = [*question.choices, "nothing of the kind"]
        rows.append(
            {
                "video": 7000 + index // 2,
                "frame_count": 32,
                "width": SIDE,
                "height": SIDE,
                "question": question.text,
                "answer": "ABCD".index(question.answer),
                "qid": index,
                "type": "CW",
                **{f"a{i}": choice for i, choice in enumerate(choices)},
            }
        )
    m.table("lmms-eval/NExTQA", "test", rows, "MC")
    m.card("lmms-eval/NExTQA", [("MC", {"test": "MC/test-*"})])


def videomme(m: Mirror) -> None:
    rows = []
    for index in range(6):  # three questions a video
        question = m.question(index // 3 + 3 * index)
        m.video(f"videomme/data/clip{index // 3}.mp4", index // 3)
        rows.append(
            {
                "video_id": f"{index // 3:03d}",
                "duration": ("short", "medium", "long")[index % 3],
                "domain": "Knowledge",
                "sub_category": "Technology",
                "url": "",
                "videoID": f"clip{index // 3}",
                "question_id": f"{index // 3:03d}-{index % 3 + 1}",
                "task_type": "Action Recognition",
                "question": question.text,
                "options": [f"{x}. {c}" for x, c in zip("ABCD", question.choices, strict=True)],
                "answer": question.answer,
            }
        )
    m.table("lmms-eval/Video-MME", "test", rows)


def perceptiontest(m: Mirror) -> None:
    rows = []
    for index in range(3):
        question = m.question(index)
        m.video(f"perceptiontest_val/videos/video_{index}.mp4", index)
        right = "ABCD".index(question.answer)
        kept = [question.choices[right], *[c for i, c in enumerate(question.choices) if i != right][:2]]
        place = index % 3
        kept[0], kept[place] = kept[place], kept[0]
        rows.append(
            {
                "video_name": f"video_{index}",
                "question": question.text,
                "question_id": str(index),
                "options": kept,
                "answer_id": str(place),
                "area": "physics",
                "reasoning": "descriptive",
                "tag": ["motion"],
            }
        )
    repo = "lmms-eval/PerceptionTest_Val"
    m.table(repo, "validation", rows, "mc_question_val")
    m.card(repo, [("mc_question_val", {"validation": "mc_question_val/validation-*"})])


def tomato(m: Mirror) -> None:
    rows = []
    for index in range(3):
        question = m.question(index)
        m.video(f"TOMATO/human/{index}.mp4", index)
        rows.append(
            {
                "id": str(index),
                "question": question.text,
                "options": list(question.choices),
                "answer": "ABCD".index(question.answer),
                "video_path": f"human/{index}.mp4",
                "reason_type": ("count", "direction", "rotation")[index],
                "demonstration_type": "human",
            }
        )
    m.table("lmms-eval/TOMATO", "test", rows)


def longvideobench(m: Mirror) -> None:
    rows = []
    for index in range(3):
        question = m.question(index)
        video = m.video(f"datasets/longvideobench/videos/{index}.mp4", index)
        rows.append(
            {
                "video_id": str(index),
                "question": question.text,
                "correct_choice": "ABCD".index(question.answer),
                "position": [0],
                "topic_category": "KH-Knowledge-History",
                "question_category": ("S2E", "T3E", "SSS")[index],
                "level": "IntraMoment",
                "id": f"{index}_0",
                "video_path": video,
                "subtitle_path": f"{index}_en.json",
                "duration_group": (15, 60, 600)[index],
                "starting_timestamp_for_subtitles": 0.0,
                "duration": 2.0,
                "view_count": 0,
                **{f"option{i}": choice for i, choice in enumerate([*question.choices, "N/A"])},
            }
        )
    m.table("longvideobench/LongVideoBench", "validation", rows)


# -- images --


def ai2d(m: Mirror) -> None:
    rows = []
    for index in range(3):
        options = ["red", "green", "blue", "none of these"]
        options[index] = m.label(index)
        question = "What colour is the largest thing?"
        rows.append({"question": question, "options": options, "answer": str(index), "image": m.image(index)})
    m.table("lmms-lab-encoder/ai2d", "test", rows)


def chartqa(m: Mirror) -> None:
    question = [("human_test", "How many?", m.label(0, "count")), ("augmented_test", "How much?", "12.5"),
             ("human_test", "Which colour?", m.label(2))]  # fmt: skip
    rows = [
        {"type": kind, "question": question, "answer": answer, "image": m.image(index)}
        for index, (kind, question, answer) in enumerate(question)
    ]
    m.table("lmms-lab-encoder/ChartQA", "test", rows)


def docvqa(m: Mirror) -> None:
    repo = "lmms-lab-encoder/DocVQA"
    documents, graphics = [], []
    for index in range(3):
        answers = [m.label(index), f"{m.label(index)} {m.label(index, 'shape')}"]
        documents.append(
            {
                "questionId": str(index),
                "question": "What colour is the largest thing?",
                "question_types": ["figure/diagram"],
                "image": m.image(index),
                "docId": index,
                "ucsf_document_id": "drawn0001",
                "ucsf_document_page_no": "1",
                "answers": answers,
                "data_split": "val",
            }
        )
        graphics.append(
            {
                "questionId": str(index),
                "question": "What colour is the largest thing?",
                "answers": answers,
                "answer_type": ["single span"],
                "image": m.image(index),
                "image_url": "",
                "operation/reasoning": [""],
                "ocr": "{}",
                "data_split": "val",
            }
        )
    m.table(repo, "validation", documents, "DocVQA")
    m.table(repo, "validation", graphics, "InfographicVQA")
    m.card(repo, [(name, {"validation": f"{name}/validation-*"}) for name in ("DocVQA", "InfographicVQA")])


def mmbench(m: Mirror) -> None:
    rows = []
    for index in range(2):
        colours = [m.label(index), "a house", "a tree", "nan" if index else "a car"]
        count = 3 if index else 4
        for turn in range(count):  # circular: the options turn, the rows of a question count together
            turned = [colours[(i + turn) % count] for i in range(count)]
            options = dict(zip("ABCD", [*turned, "nan"], strict=False))
            rows.append(
                {
                    "index": index + 1_000_000 * turn,
                    "question": "What is in the middle?",
                    "hint": "nan",
                    "answer": "ABCD"[turned.index(colours[0])],
                    **options,
                    "category": "object_localization",
                    "image": m.image(index),
                    "source": "drawn",
                    "L2-category": "finegrained_perception (instance-level)",
                    "comment": "nan",
                    "split": "dev",
                }
            )
    m.table("lmms-lab-encoder/MMBench", "dev", rows, "en")
    m.card("lmms-lab-encoder/MMBench", [("en", {"dev": "en/dev-*"})])


def ocrbench(m: Mirror) -> None:
    rows = []
    for index, kind in enumerate(OCRBENCH_TYPES):
        answer = "x ^ { 2 }" if "Mathematical" in kind else f"word{index}"
        rows.append(
            {
                "dataset": "HME100k" if "Mathematical" in kind else "drawn",
                "question": "what is written in the image?",
                "question_type": kind,
                "answer": [answer],
                "image": m.image(index),
            }
        )
    m.table("echo840/OCRBench", "test", rows)


def ocrbench_v2(m: Mirror) -> None:
    from ocrbench_v2_rows import ROWS

    rows = [
        {
            "id": index,
            "dataset_name": "drawn",
            "question": row.question,
            "type": row.kind,
            "answers": row.answers,
            "eval": row.eval,
            "bbox": row.bbox,
            "bbox_list": row.bbox_list,
            "content": row.content,
            "image": m.image(index),
        }
        for index, row in enumerate(ROWS)
    ]
    m.table("ling99/OCRBench_v2", "test", rows)


def mmstar(m: Mirror) -> None:
    rows = []
    for index, (category, kind) in enumerate(MMSTAR.items()):
        rows.append(
            {
                "index": index,
                "question": f"What colour is it?\nOptions: A: {m.label(index)}, B: x, C: y, D: z",
                "image": m.image(index),
                "answer": "A" if index % 2 == 0 else "B",
                "category": category,
                "l2_category": kind,
                "meta_info": {"source": "drawn", "split": "val", "image_path": f"{index}.jpg"},
            }
        )
    m.table("Lin-Chen/MMStar", "val", rows)
    m.card("Lin-Chen/MMStar", [("default", {"val": "val-*"})])


def realworldqa(m: Mirror) -> None:
    answers = ["A", "C", "Downhill", "3"]
    rows = [
        {
            "question": f"Where? {index}",
            "answer": answer,
            "image": m.image(index),
            "image_path": f"{index}.webp",
        }
        for index, answer in enumerate(answers)
    ]
    m.table("lmms-lab-encoder/RealWorldQA", "test", rows)


# -- the table of the OpenVision 3 paper --


def mme(m: Mirror) -> None:
    rows = []
    for index, category in enumerate(MME_CATEGORIES):
        for answer in ("Yes", "No"):
            rows.append(
                {
                    "question_id": f"{category}/{index}.png",
                    "image": m.image(index),
                    "question": f"Is it so? {answer == 'Yes'} Please answer yes or no.",
                    "answer": answer,
                    "category": category,
                }
            )
    m.table("lmms-lab-encoder/MME", "test", rows)


def seedbench(m: Mirror) -> None:
    rows = []
    for index in range(4):
        kind = "image" if index < 3 else "video"
        rows.append(
            {
                "answer": "ABCD"[index],
                **{f"choice_{x}": f"choice {x}" for x in "abcd"},
                "data_id": str(index),
                "data_type": kind,
                "question": "Which?",
                "question_id": str(index),
                "question_type_id": 1,
                "image": [m.image(index + i) for i in range(1 if kind == "image" else 2)],
                "segment": [],
            }
        )
    features = datasets.Features(
        {
            **{name: datasets.Value("string") for name in rows[0] if name not in ("question_type_id",)},
            "question_type_id": datasets.Value("int64"),
            "image": datasets.List(datasets.Image()),
            "segment": datasets.List(datasets.Value("float64")),
        }
    )
    folder = m.root / "lmms-lab-encoder/SEED-Bench"
    folder.mkdir(parents=True)
    datasets.Dataset.from_list(rows, features=features).to_parquet(folder / "test-00000-of-00001.parquet")


def scienceqa(m: Mirror) -> None:
    rows = []
    for index in range(3):
        rows.append(
            {
                "image": m.image(index),
                "question": "Which colour?",
                "choices": ["red", "green", "blue"][: 2 + index % 2],
                "answer": index % 2,
                "hint": "" if index else "Look at the middle.",
                "task": "closed choice",
                "grade": "grade2",
                "subject": "natural science",
                "topic": "physics",
                "category": "Materials",
                "skill": "Compare",
                "lecture": "",
                "solution": "",
            }
        )
    repo = "lmms-lab-encoder/ScienceQA"
    m.table(repo, "test", rows, "ScienceQA-IMG")
    m.card(repo, [("ScienceQA-IMG", {"test": "ScienceQA-IMG/test-*"})])


def gqa(m: Mirror) -> None:
    repo = "lmms-lab-encoder/GQA"
    question, images = [], []
    for index in range(3):
        images.append({"id": f"n{index}", "image": m.image(index)})
        question.append(
            {
                "id": str(index),
                "imageId": f"n{index}",
                "question": "What colour is the largest thing?",
                "answer": m.label(index),
                "fullAnswer": f"It is {m.label(index)}.",
                "isBalanced": True,
            }
        )
    m.table(repo, "testdev", question, "testdev_balanced_instructions")
    m.table(repo, "testdev", images, "testdev_balanced_images")
    names = ("testdev_balanced_instructions", "testdev_balanced_images")
    m.card(repo, [(name, {"testdev": f"{name}/testdev-*"}) for name in names])


def pope(m: Mirror) -> None:
    rows = []
    for index in range(6):
        rows.append(
            {
                "id": str(index),
                "question_id": str(index),
                "question": "Is there a square in the image?",
                "answer": ("yes", "no")[index % 2],
                "image_source": f"drawn_{index}",
                "image": m.image(index),
                "category": ("random", "popular", "adversarial")[index // 2],
            }
        )
    m.table("lmms-lab-encoder/POPE", "test", rows)


def empty_wordnet(folder: Path) -> None:
    """nltk's METEOR, in OCRBench v2, asks WordNet for synonyms; this one knows no words."""
    wordnet = folder / "corpora" / "wordnet"
    shutil.rmtree(wordnet, ignore_errors=True)
    wordnet.mkdir(parents=True)
    names = [f"{kind}.{part}" for kind in ("index", "data") for part in ("adj", "adv", "noun", "verb")]
    for name in [*names, *[f"{part}.exc" for part in ("adj", "adv", "noun", "verb")], "cntlist.rev"]:
        (wordnet / name).write_text("")
    (wordnet / "lexnames").write_text("00\tadj.all\t3\n")
    (wordnet / "index.sense").write_text("")
