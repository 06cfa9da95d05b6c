"""The grpcio server behind `rialto gateway` and behind Envoy: the contract in inventory/."""

import threading
from concurrent import futures

import grpc
from google.protobuf import empty_pb2, struct_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status


def detailed(code: int, message: str):
    status = status_pb2.Status(code=code, message=message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="OUT_OF_STOCK", domain="warehouse", metadata={"a": "b"}))
    violation = error_details_pb2.BadRequest.FieldViolation(field="code", description="is asked for")
    status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    return rpc_status.to_status(status)


def start(reflect: bool = False) -> tuple[grpc.Server, int, threading.Event, threading.Event]:
    """Serves on a free port. The first event is set while a call hangs; the second when it was cancelled."""
    import inventory_pb2 as pb
    import inventory_pb2_grpc
    import transfers_pb2 as transfers
    import transfers_pb2_grpc
    from google.api import httpbody_pb2

    hanging, cancelled = threading.Event(), threading.Event()

    def item(name: str) -> pb.Item:
        return pb.Item(name=name, title="Lamp", price_cents=9007199254740993, grade=pb.USED, labels=["a", "b"])

    class Inventory(inventory_pb2_grpc.InventoryServicer):
        def Probe(self, request, context):
            return request

        def GetItem(self, request, context):
            context.send_initial_metadata((("x-note", "head"), ("x-private", "p")))
            context.set_trailing_metadata((("x-trailer-note", "tail"),))
            return item(request.name)

        def CreateItem(self, request, context):
            request.item.name = f"{request.parent}/items/{request.item_id}"
            return request.item

        def ReplaceItem(self, request, context):
            return request

        def UpdateItem(self, request, context):
            return request

        def DeleteItem(self, request, context):
            return empty_pb2.Empty()

        def ArchiveItem(self, request, context):
            return pb.Item(name=request.name, title="deep" if request.deep else "")

        def Audit(self, request, context):
            return pb.Item(name=request.name, title="audited")

        def GetDefault(self, request, context):
            return pb.Item(name="default", title="literal")

        def Fail(self, request, context):
            if request.details:
                context.abort_with_status(detailed(request.code, request.message))
            code = next(code for code in grpc.StatusCode if code.value[0] == request.code)
            context.abort(code, request.message)

        def Metadata(self, request, context):
            answer = struct_pb2.Struct()
            for key, value in context.invocation_metadata():
                answer[key] = value if isinstance(value, str) else value.hex()
            return answer

        def Hang(self, request, context):
            # One after the other: the calls before have passed their deadlines.
            cancelled.clear()
            ended = threading.Event()
            context.add_callback(ended.set)
            hanging.set()
            ended.wait()
            hanging.clear()
            cancelled.set()
            return empty_pb2.Empty()

        def Watch(self, request, context):
            for i in range(request.count):
                if request.HasField("fail_after") and i == request.fail_after:
                    context.abort(grpc.StatusCode.ABORTED, "enough")
                yield pb.Item(name=f"items/{i}", price_cents=i)

        def Hidden(self, request, context):
            return item(request.name)

    class Extras(inventory_pb2_grpc.ExtrasServicer):
        def ListNames(self, request, context):
            return request

    class Transfers(transfers_pb2_grpc.TransfersServicer):
        def Download(self, request, context):
            return httpbody_pb2.HttpBody(content_type="text/csv", data=f"name\n{request.name}\n".encode())

        def DownloadInPieces(self, request, context):
            for i in range(request.pieces):
                yield httpbody_pb2.HttpBody(content_type="text/plain", data=f"{i};".encode())

        def Put(self, request, context):
            body = request.content
            return transfers.Receipt(
                name=request.name, content_type=body.content_type, bytes=len(body.data), messages=1
            )

        def Echo(self, request, context):
            return request

        def Upload(self, requests, context):
            receipt = transfers.Receipt()
            for request in requests:
                receipt.name = receipt.name or request.name
                receipt.content_type = receipt.content_type or request.content.content_type
                receipt.bytes += len(request.content.data)
            return receipt

        def Sum(self, requests, context):
            return transfers.Number(value=sum(request.value for request in requests))

    server = grpc.server(futures.ThreadPoolExecutor(16))
    inventory_pb2_grpc.add_InventoryServicer_to_server(Inventory(), server)
    inventory_pb2_grpc.add_ExtrasServicer_to_server(Extras(), server)
    transfers_pb2_grpc.add_TransfersServicer_to_server(Transfers(), server)
    if reflect:
        names = [service.full_name for service in pb.DESCRIPTOR.services_by_name.values()] + [reflection.SERVICE_NAME]
        reflection.enable_server_reflection(names, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port, hanging, cancelled
