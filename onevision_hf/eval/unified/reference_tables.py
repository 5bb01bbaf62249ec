"""The published figures of reconstruction and generation, and what contradicts what in them.

for table in beside("reconstruction"): print(table.title, table.source)
notes("reconstruction")
"""

from ..published import PublishedTable, published_table

TABLES = {
    "reconstruction": ("openvision3_reconstruction", "openvision3_reconstruction_ablations"),
    "generation": ("openvision3_generation", "openvision3_generation_ablations"),
}
CEILINGS = ("FLUX-VAE", "SD-VAE + SiT")  # the VAE of OpenVision 3, and the best without its tokens
NOTES = {
    "reconstruction": (
        "The two versions of the paper print two results: rFID 0.216, PSNR 30.33, SSIM .885, LPIPS .061 in "
        "the first, 0.187, 30.92, .902, .053 in the second. The first returns in the second's Table 6 as "
        "the schedule of 1000 + 200 epochs, so the difference is the schedule, 4000 + 400. Which of the two "
        "the released encoders had is not said; they were uploaded with the first version.",
        "No decoder was released, so nobody can run these rows again from the released weights.",
        "More PSNR is not less rFID: without the VAE the same encoder has 32.82 dB and rFID 0.980.",
        "The large encoder gains nothing over the base (30.96 dB, rFID 0.186): the VAE is the ceiling "
        "(32.86, 0.176).",
        "The network of LPIPS and the implementation and reference set of FID are not stated. Ours: AlexNet, "
        "torch-fidelity, and the measured images themselves.",
    ),
    "generation": (
        "gFID 1.89 in the first version of the paper, 1.87 in the second; the guidance is stated in neither.",
        "The large encoder generates worse than the base after 100 epochs (8.89 against 8.45) at a higher "
        "Inception score, though it rebuilds as well: rFID does not predict gFID.",
        "The reference of gFID is ADM's statistics of ImageNet's training set, that of rFID the validation "
        "images themselves: the two numbers do not compare.",
        "RAE samples exactly 50 images of each class, which gives about 0.1 less gFID than labels drawn at "
        "random.",
    ),
}


def beside(evaluation: str) -> list[PublishedTable]:
    """The published tables that stand beside `reconstruction` or `generation`."""
    return [published_table(name) for name in TABLES[evaluation]]


def notes(evaluation: str) -> tuple[str, ...]:
    return NOTES[evaluation]


def published_lines(evaluation: str) -> list[str]:
    """For a terminal: the rows of OpenVision 3 and of its ceiling, with their source."""
    lines = []
    for table in beside(evaluation):
        lines.append(f"published, {table.source}: {table.title}")
        for row in table.rows:
            if table.name.endswith("ablations") or row.model in (
                "OpenVision 3",
                "OpenVision 3 + RAE",
                *CEILINGS,
            ):
                values = "  ".join(f"{table.more['labels'][c]} {v:g}" for c, v in row.values.items())
                lines.append(f"  {row.model}: {values}")
    return lines


def published_json(evaluation: str) -> list[dict]:
    """The same tables whole, for `--json`."""
    return [
        {
            "title": table.title,
            "source": table.source,
            "note": table.note,
            "rows": [{"model": row.model, **row.values} for row in table.rows],
        }
        for table in beside(evaluation)
    ]
