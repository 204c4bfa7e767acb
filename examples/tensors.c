/* Runs an ONNX model once, inside a memory budget: every input is filled with ones, every output is described.

       tensors MODEL.cgraph [BUDGET_BYTES]

   ONNX Runtime is looked for as docs/onnx.md says. Open dimensions have the length 1. */

#include <capsulegraph.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_INPUTS = 16, MOST_RANK = 8, MOST_ELEMENTS = 1 << 22 };

/* Bytes of an element of the types that this program feeds, 0 of others; and a one of that type. */
static size_t element_bytes(uint32_t element, unsigned char one[8]) {
    const float f = 1;
    const double d = 1;
    memset(one, 0, 8);
    one[0] = 1;
    switch (element) {
    case CAPG_ELEMENT_FLOAT32: return memcpy(one, &f, sizeof f), sizeof f;
    case CAPG_ELEMENT_FLOAT64: return memcpy(one, &d, sizeof d), sizeof d;
    case CAPG_ELEMENT_INT64: return 8;
    case CAPG_ELEMENT_INT32: return 4;
    case CAPG_ELEMENT_UINT8: case CAPG_ELEMENT_INT8: case CAPG_ELEMENT_BOOL: return 1;
    default: return 0;
    }
}

/* Names of the types by their numbers, CAPG_ELEMENT_*. */
static const char *element_name(uint32_t element) {
    static const char *const names[] = {
        "none", "float32", "uint8", "int8", "uint16", "int16", "int32", "int64", "string", "bool", "float16", "float64",
        "uint32", "uint64", "complex64", "complex128", "bfloat16", "float8e4m3fn", "float8e4m3fnuz", "float8e5m2",
        "float8e5m2fnuz", "uint4", "int4", "float4e2m1", "float8e8m0", "uint2", "int2"};
    return element < sizeof names / sizeof *names ? names[element] : "of an unknown type";
}

/* A tensor of ones for an input; 0 where there is none. */
static int fill(const capg_port *port, int64_t *dims, capg_tensor *tensor) {
    unsigned char one[8];
    const size_t bytes = element_bytes(port->element, one);
    size_t count = 1;
    if (port->kind != CAPG_VALUE_TENSOR || !port->has_shape || port->rank > MOST_RANK || bytes == 0) return 0;
    for (size_t i = 0; i < port->rank; i++) {
        dims[i] = port->dims[i] < 0 ? 1 : port->dims[i];
        if (dims[i] > MOST_ELEMENTS || (count *= (size_t)dims[i]) > MOST_ELEMENTS) return 0;
    }
    unsigned char *data = (unsigned char *)malloc(count * bytes + 1);
    if (data == NULL) return 0;
    for (size_t i = 0; i < count; i++) memcpy(data + i * bytes, one, bytes);
    memset(tensor, 0, sizeof *tensor);
    tensor->data = data, tensor->data_len = count * bytes;
    tensor->dims = dims, tensor->rank = port->rank, tensor->element = port->element;
    return 1;
}

static int describe(const capg_values *values, size_t index, capg_error **error) {
    capg_value value;
    if (capg_values_view(values, index, &value, error)) return 1;
    printf("%.*s:", (int)value.name_len, value.name);
    for (size_t t = 0; t < value.count; t++) {
        const capg_tensor *tensor = &value.tensors[t];
        printf(" %s [", element_name(tensor->element));
        for (size_t i = 0; i < tensor->rank; i++) printf(i ? ", %" PRId64 : "%" PRId64, tensor->dims[i]);
        printf("]");
        if (tensor->element == CAPG_ELEMENT_FLOAT32 && tensor->data_len > 0)
            printf(" %g ...", (double)*(const float *)tensor->data);
    }
    printf("\n");
    return 0;
}

int main(int argc, char **argv) {
    const char *path = argc > 1 ? argv[1] : "model.cgraph";
    capg_value inputs[MOST_INPUTS];
    capg_tensor tensors[MOST_INPUTS];
    int64_t dims[MOST_INPUTS][MOST_RANK];
    size_t fed = 0, ports = 0, outputs = 0;
    capg_error *error = NULL;
    capg_model *model = NULL;
    capg_values *values = NULL;
    capg_model_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.memory_budget_bytes = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
    int failed = capg_model_open(path, strlen(path), &options, &model, &error)
        || capg_model_port_count(model, CAPG_PORT_INPUT, &ports, &error);
    for (size_t i = 0; i < ports && !failed; i++) {
        capg_port port;
        memset(&port, 0, sizeof port);
        port.struct_size = sizeof port;
        failed = capg_model_port(model, CAPG_PORT_INPUT, i, &port, &error);
        if (failed || port.optional) continue; /* the model has a default */
        if (fed == MOST_INPUTS || !fill(&port, dims[fed], &tensors[fed])) {
            fprintf(stderr, "input %.*s is of a kind that this program does not make\n", (int)port.name_len, port.name);
            failed = 1;
            continue;
        }
        memset(&inputs[fed], 0, sizeof inputs[fed]);
        inputs[fed].name = port.name, inputs[fed].name_len = port.name_len; /* lives as long as the model */
        inputs[fed].tensors = &tensors[fed], inputs[fed].count = 1;
        fed++;
    }
    failed = failed || capg_model_run(model, inputs, fed, NULL, 0, NULL, NULL, &values, &error)
        || capg_values_count(values, &outputs, &error);
    for (size_t i = 0; i < outputs && !failed; i++) failed = describe(values, i, &error);
    if (error != NULL) fprintf(stderr, "%s\n", capg_error_message(error, NULL));
    while (fed > 0) free((void *)tensors[--fed].data);
    capg_error_free(error);
    capg_values_free(values);
    capg_model_free(model);
    return failed;
}
