"""The messages of the Open Inference Protocol over gRPC, as far as this service uses them.

Names and numbers of the fields are the protocol's. The classes are made here rather than by ``protoc``, in a pool of
their own: clients of Triton and KServe bring other versions of the same messages into the pool that all share.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

PACKAGE: Final = "inference"
SERVICE: Final = f"{PACKAGE}.GRPCInferenceService"

# Each method with its request, its answer, and whether both are streams.
METHODS: Final = {
    "ServerLive": ("ServerLiveRequest", "ServerLiveResponse", False),
    "ServerReady": ("ServerReadyRequest", "ServerReadyResponse", False),
    "ModelReady": ("ModelReadyRequest", "ModelReadyResponse", False),
    "ServerMetadata": ("ServerMetadataRequest", "ServerMetadataResponse", False),
    "ModelMetadata": ("ModelMetadataRequest", "ModelMetadataResponse", False),
    "ModelInfer": ("ModelInferRequest", "ModelInferResponse", False),
    "ModelStreamInfer": ("ModelInferRequest", "ModelStreamInferResponse", True),
}

# The fields of each message, in the order of their numbers, which begin at 1. "[]" stands for repeated, "{}" for a map
# from strings, and names in capitals are of other messages.
_MODEL: Final = "name string, version string"
_TENSOR: Final = (
    "name string, datatype string, shape int64[], parameters InferParameter{}, contents InferTensorContents"
)
_MESSAGES: Final = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "live bool",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "ready bool",
    "ModelReadyRequest": _MODEL,
    "ModelReadyResponse": "ready bool",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "name string, version string, extensions string[]",
    "ModelMetadataRequest": _MODEL,
    "ModelMetadataResponse": "name string, versions string[], platform string, "
    "inputs ModelMetadataResponse.TensorMetadata[], outputs ModelMetadataResponse.TensorMetadata[]",
    "ModelMetadataResponse.TensorMetadata": "name string, datatype string, shape int64[]",
    "InferParameter": "bool_param bool, int64_param int64, string_param string, double_param double, "
    "uint64_param uint64",
    "InferTensorContents": "bool_contents bool[], int_contents int32[], int64_contents int64[], "
    "uint_contents uint32[], uint64_contents uint64[], fp32_contents float[], fp64_contents double[], "
    "bytes_contents bytes[]",
    "ModelInferRequest": "model_name string, model_version string, id string, parameters InferParameter{}, "
    "inputs ModelInferRequest.InferInputTensor[], outputs ModelInferRequest.InferRequestedOutputTensor[], "
    "raw_input_contents bytes[]",
    "ModelInferRequest.InferInputTensor": _TENSOR,
    "ModelInferRequest.InferRequestedOutputTensor": "name string, parameters InferParameter{}",
    "ModelInferResponse": "model_name string, model_version string, id string, parameters InferParameter{}, "
    "outputs ModelInferResponse.InferOutputTensor[], raw_output_contents bytes[]",
    "ModelInferResponse.InferOutputTensor": _TENSOR,
    "ModelStreamInferResponse": "error_message string, infer_response ModelInferResponse",
}
_CHOICES: Final = {"InferParameter": "parameter_choice"}  # messages of which one field is set


def _file() -> FileDescriptorProto:
    file = FileDescriptorProto(name="open_inference_grpc.proto", package=PACKAGE, syntax="proto3")
    declared: dict[str, DescriptorProto] = {}
    for name, fields in _MESSAGES.items():
        outer, _, inner = name.rpartition(".")
        message = (declared[outer].nested_type if outer else file.message_type).add(name=inner)
        declared[name] = message
        for number, field in enumerate(filter(None, fields.split(", ")), start=1):
            _add(message, name, number, *field.split())
        if choice := _CHOICES.get(name):
            message.oneof_decl.add(name=choice)
            for each in message.field:
                each.oneof_index = 0
    service = file.service.add(name=SERVICE.rpartition(".")[2])
    for method, (request, answer, streams) in METHODS.items():
        service.method.add(
            name=method,
            input_type=_full(request),
            output_type=_full(answer),
            client_streaming=streams,
            server_streaming=streams,
        )
    return file


def _add(message: DescriptorProto, path: str, number: int, name: str, kind: str) -> None:
    field = message.field.add(name=name, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL)
    if kind.endswith(("[]", "{}")):
        field.label = FieldDescriptorProto.LABEL_REPEATED
    if kind.endswith("{}"):
        entry = message.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        _add(entry, "", 1, "key", "string")
        _add(entry, "", 2, "value", kind.removesuffix("{}"))
        kind = f"{path}.{entry.name}"
    kind = kind.removesuffix("[]")
    if kind[0].isupper():
        field.type = FieldDescriptorProto.TYPE_MESSAGE
        field.type_name = _full(kind)
    else:
        field.type = FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")


def _full(message: str) -> str:
    return f".{PACKAGE}.{message}"


POOL: Final = DescriptorPool()
POOL.Add(_file())


def message(name: str) -> Any:
    """The class of a message of the protocol, such as ``ModelInferRequest``."""
    return GetMessageClass(POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))
