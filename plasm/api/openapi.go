package api

import _ "embed"

// OpenAPI is the description of the API in OpenAPI 3.1.
//
//go:embed openapi.json
var OpenAPI []byte
