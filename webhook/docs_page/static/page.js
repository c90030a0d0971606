// The reference of the service that serves this page. Nothing is asked of anybody else: the default
// of validatorUrl would send the description's address to a site outside.
window.addEventListener("load", () => {
  SwaggerUIBundle({
    url: "openapi.json",
    dom_id: "#reference",
    deepLinking: true,
    displayRequestDuration: true,
    filter: true,
    validatorUrl: null,
  });
});
