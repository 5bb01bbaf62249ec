"""`onevision convert NAME SRC DST`: a published checkpoint becomes a transformers folder."""

import argparse
import json


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "converter", choices=["openvision3", "onevision-encoder"], help="which published layout"
    )
    parser.add_argument("source", metavar="SRC", help="folder or Hub id of the published checkpoint")
    parser.add_argument("destination", metavar="DST", help="folder to write; must not exist or be empty")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub repository")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> None:
    from onevision_hf.conversion import convert

    result = convert(args.converter, args.source, args.destination, args.revision)
    if args.json:
        print(json.dumps(result.to_dict()))
        return
    print(
        f"{result.source}: {result.published_keys} tensors, {result.published_numbers:,} numbers, all "
        "consumed"
    )
    print(f"{result.destination}: {result.parameters:,} parameters; {', '.join(result.files)}")
