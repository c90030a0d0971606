"""The HTTP API's JSON as Pydantic models, shared by the service and its clients.

The service validates bodies with the models of requests and makes its OpenAPI description from all
of them. Nothing here knows how a service works: limits that a service is set to come on top.
"""
