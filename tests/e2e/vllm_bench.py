"""vLLM's own load generator, run in the environment of the vllm runtime; its options are those of
`vllm bench serve`. The build of vLLM that runs here has no `vllm` command, because its distribution has another name.
"""

from vllm.benchmarks import serve
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = FlexibleArgumentParser()
serve.add_cli_args(parser)
serve.main(parser.parse_args())
