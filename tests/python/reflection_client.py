"""A client without stubs: all it knows of the contract it has from reflection."""

import json
import os

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from client import PATIENCE, Checks, expect_equal
from grpc_client import bearer, channel, refused

checks = Checks("reflection")
banner = json.loads(os.environ["RIALTO_BANNER"])
connection = channel(banner["listen"])
database = ProtoReflectionDescriptorDatabase(connection)
pool = descriptor_pool.DescriptorPool(database)

AUTH = "rialto.auth.v1.AuthService"
MESSAGING = "rialto.messaging.v1.MessagingService"
HEALTH = "grpc.health.v1.Health"


def message_class(name: str):
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


def method_descriptor(service: str, method: str):
    return pool.FindServiceByName(service).methods_by_name[method]


def call(service: str, method: str, /, metadata=None, **fields):
    """A unary call, built from the method's descriptor."""
    described = method_descriptor(service, method)
    request, response = (
        message_factory.GetMessageClass(described.input_type),
        message_factory.GetMessageClass(described.output_type),
    )
    stub = connection.unary_unary(f"/{service}/{method}", request.SerializeToString, response.FromString)
    return stub(request(**fields), metadata=metadata, timeout=PATIENCE)


@checks
def the_services_are_listed():
    listed = set(database.get_services())
    for service in (AUTH, MESSAGING, HEALTH):
        expect_equal(service in listed, True)
        pool.FindServiceByName(service)


@checks
def every_listed_service_has_descriptors_that_hold_together():
    for service in database.get_services():
        if not service.startswith("grpc.reflection."):
            described = pool.FindServiceByName(service)
            for method in described.methods:
                message_factory.GetMessageClass(method.input_type)
                message_factory.GetMessageClass(method.output_type)


@checks
def log_in_and_get_me():
    account = banner["accounts"][0]
    tokens = call(AUTH, "Login", email=account["email"], password=account["password"])
    me = call(AUTH, "GetMe", metadata=bearer(tokens.access_token)).account
    expect_equal(me.email, account["email"])
    role = me.DESCRIPTOR.fields_by_name["role"].enum_type.values_by_number[me.role].name
    expect_equal(role, f"ROLE_{account['role'].upper()}")


@checks
def streaming_is_described():
    for method, client, server in (("Subscribe", False, True), ("Connect", True, True), ("SendMessage", False, False)):
        described = method_descriptor(MESSAGING, method)
        expect_equal((described.client_streaming, described.server_streaming), (client, server))


@checks
def the_options_of_a_method_are_served_with_its_descriptor():
    # Found by its symbol, as grpcurl does, and read with the options that the server itself describes.
    file = database.FindFileContainingSymbol(MESSAGING)
    service = next(service for service in file.service if MESSAGING.endswith(service.name))
    raw = next(method for method in service.method if method.name == "CreateConversation").options.SerializeToString()
    options = message_class("google.protobuf.MethodOptions").FromString(raw)

    policy = options.Extensions[pool.FindExtensionByName("rialto.policy.v1.policy")]
    expect_equal((policy.permission, policy.audit, policy.idempotency_key), ("conversations:create", True, True))
    rates = policy.DESCRIPTOR.fields_by_name["rate"].enum_type
    expect_equal(rates.values_by_number[policy.rate].name, "RATE_WRITE")
    http = options.Extensions[pool.FindExtensionByName("google.api.http")]
    expect_equal((http.post, http.body, http.response_body), ("/v1/conversations", "*", "conversation"))


@checks
def the_rules_of_a_field_are_served_with_its_descriptor():
    file = database.FindFileContainingSymbol("rialto.auth.v1.RegisterRequest")
    message = next(message for message in file.message_type if message.name == "RegisterRequest")
    raw = next(field for field in message.field if field.name == "password").options.SerializeToString()
    options = message_class("google.protobuf.FieldOptions").FromString(raw)
    expect_equal(options.Extensions[pool.FindExtensionByName("rialto.policy.v1.secret")], True)
    expect_equal(options.Extensions[pool.FindExtensionByName("buf.validate.field")].string.min_len, 8)


@checks
def the_file_of_a_symbol_comes_whole():
    file = database.FindFileByName("rialto/auth/v1/auth.proto")
    expect_equal(isinstance(file, descriptor_pb2.FileDescriptorProto), True)
    expect_equal((file.package, [service.name for service in file.service]), ("rialto.auth.v1", ["AuthService"]))


@checks
def health_is_served_for_the_server_and_for_each_service():
    serving = message_class("grpc.health.v1.HealthCheckResponse").SERVING
    for service in ("", AUTH, MESSAGING):
        expect_equal(call(HEALTH, "Check", service=service).status, serving)
    with refused(grpc.StatusCode.NOT_FOUND):
        call(HEALTH, "Check", service="no.such.Service")


@checks
def an_unknown_method_is_unimplemented():
    stub = connection.unary_unary(f"/{AUTH}/NoSuchMethod", lambda message: message, lambda message: message)
    with refused(grpc.StatusCode.UNIMPLEMENTED):
        stub(b"", timeout=PATIENCE)


if __name__ == "__main__":
    checks.run()
