"""`onevision extract-encoder DIR OUT`: the tuned tower of a multimodal model becomes an encoder's folder."""

import argparse
import json


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="DIR", help="folder or Hub id of a multimodal model")
    parser.add_argument("destination", metavar="OUT", help="folder to write; must not exist or be empty")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of text")


def run(args: argparse.Namespace) -> None:
    from onevision_hf.conversion.tower import extract_encoder

    config, parameters = extract_encoder(args.source, args.destination)
    if args.json:
        print(
            json.dumps({"out": args.destination, "model_type": config.model_type, "parameters": parameters})
        )
        return
    print(f"{args.destination}: {config.model_type}, {parameters:,} parameters, loads with AutoModel")
