"""`onevision extract-encoder DIR OUT`: the tuned tower of a multimodal model becomes an encoder's folder."""

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="DIR", help="folder or Hub id of a multimodal model")
    parser.add_argument("destination", metavar="OUT", help="folder to write; must not exist or be empty")


def run(args: argparse.Namespace) -> None:
    from onevision_hf.conversion.tower import extract_encoder

    config, parameters = extract_encoder(args.source, args.destination)
    print(f"{args.destination}: {config.model_type}, {parameters:,} parameters, loads with AutoModel")
