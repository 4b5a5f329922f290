"""From a plan to a dense network, ONNX and engines."""

from dmcp_deploy.rooms import make_callable

make_callable(__name__)
