"""`transformers serve` with our models: a chat about a video is answered as `generate` answers it.

Run: make test-vllm, whose environment has what that server needs
"""

from pathlib import Path

import openai
import pytest
from folders import TOKENS, as_openai, expected, of_transformers, picture
from servers import running
from vl_tiny import user


def test_a_chat_about_a_video_and_an_image_is_that_of_generate(served, clip):
    arguments = ("-m", "onevision_hf.serving.transformers_server", str(served.folder), "--device", "cpu")
    tokenizer = of_transformers(served.folder)[1].tokenizer
    with running(served.folder / "transformers.log", *arguments) as (_, client):

        def ask(conversation):
            # After an error this server closes the connection, which the client learns of when it asks again.
            found = client.with_options(max_retries=2).chat.completions.create(
                model=str(served.folder), messages=as_openai(conversation), max_tokens=TOKENS, temperature=0
            )
            return found.usage.prompt_tokens, found.choices[0].message.content

        for media in ([("video", clip)], [("image", picture())], [("image", picture()), ("video", clip)]):
            paths = [(kind, str(medium) if kind == "video" else medium) for kind, medium in media]
            settings = {"num_frames": 32} if "video" in dict(media) else {}  # what that server asks for
            prompt, answer = expected(served.folder, user(*paths, "What happens?"), least=0, **settings)
            want = tokenizer.decode(answer, skip_special_tokens=True)
            assert ask(user(*media, "What happens?")) == (len(prompt), want)
        with pytest.raises(openai.APIError):
            ask(user(("video", Path(__file__)), "What happens?"))
        prompt, _ = expected(served.folder, user(("image", picture()), "Again?"))
        assert ask(user(("image", picture()), "Again?"))[0] == len(prompt)
