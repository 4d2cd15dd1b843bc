/*
 * Everything that a program can do wrong and be told of: null pointers, handles that are closed or none, text that is no
 * UTF-8, sizes that were not set, numbers out of range, calls from callbacks. Ends with 0 where each has its status.
 *
 *     misuse MODEL
 */
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <rin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures;

static void expect(int line, const char *what, int64_t found, int64_t wanted, const char *words)
{
    if (found != wanted) {
        fprintf(stderr, "line %d: %s gives %" PRId64 " in place of %" PRId64 ": %s\n", line, what, found, wanted, rin_last_error());
        failures++;
    } else if (strstr(rin_last_error(), words) == NULL || (wanted < 0) != (rin_last_error_kind()[0] != 0)) {
        fprintf(stderr, "line %d: %s says \"%s\" (%s), without \"%s\"\n", line, what, rin_last_error(), rin_last_error_kind(), words);
        failures++;
    }
}

#define EXPECT(call, wanted, words) expect(__LINE__, #call, call, wanted, words)
#define GOOD(call) expect(__LINE__, #call, call, RIN_STATUS_OK, "")
#define NULL_POINTER(call) EXPECT(call, RIN_STATUS_INVALID_INPUT, "null pointer")
#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "line %d: not %s\n", __LINE__, #condition); \
            failures++; \
        } \
    } while (0)

/* Every function that takes a context, with this one. */
static void each(RinContext *context, const char *model, RinStatus wanted, const char *words)
{
    RinModelInfo info = { .struct_size = sizeof info };
    RinPlan plan = { .struct_size = sizeof plan };
    RinResult result = { .struct_size = sizeof result };
    uint32_t ids[4] = { 1, 2, 3, 4 };
    char text[8];
    double a = 0, b = 0;
    uint64_t n;
    int32_t mode;
    EXPECT(rin_load_model(context, model, NULL), wanted, words);
    EXPECT(rin_get_model_info(context, &info), wanted, words);
    EXPECT(rin_plan(context, NULL, NULL, &plan), wanted, words);
    EXPECT(rin_set_mode(context, RIN_MODE_TRANSFORMER), wanted, words);
    EXPECT(rin_get_mode(context, &mode), wanted, words);
    EXPECT(rin_set_temperature(context, 1), wanted, words);
    EXPECT(rin_set_top_k(context, 1), wanted, words);
    EXPECT(rin_set_top_p(context, 1), wanted, words);
    EXPECT(rin_set_power_budget(context, 0), wanted, words);
    EXPECT(rin_encode(context, "a", 0, ids, 4), wanted, words);
    EXPECT(rin_decode(context, ids, 4, text, sizeof text), wanted, words);
    EXPECT(rin_infer(context, ids, 4, 1, &result), wanted, words);
    EXPECT(rin_generate(context, "a", NULL, NULL, NULL, NULL), wanted, words);
    EXPECT(rin_generate_ids(context, ids, 4, NULL, NULL, NULL, NULL), wanted, words);
    EXPECT(rin_logits(context, ids, 4, 0, NULL, 0), wanted, words);
    EXPECT(rin_infer_rows(context, NULL, 0, 0, NULL, 0), wanted, words);
    EXPECT(rin_describe(context, text, sizeof text), wanted, words);
    EXPECT(rin_get_digest(context, text, sizeof text), wanted, words);
    EXPECT(rin_load_embedded(context, NULL), wanted, words);
    EXPECT(rin_get_machine_joules(context, &a), wanted, words);
    EXPECT(rin_get_energy_joules(context, &a), wanted, words);
    CHECK(isnan(a));
    EXPECT(rin_get_energy_millijoules(context, &b), wanted, words);
    CHECK(isnan(b));
    EXPECT(rin_get_inference_count(context, &n), wanted, words);
    EXPECT(rin_get_total_tokens(context, &n), wanted, words);
    EXPECT(rin_profile(context, RIN_MODE_TRANSFORMER, 0, 1, &a, &b), wanted, words);
    CHECK(result.tokens == NULL && result.num_tokens == 0 && result.text == NULL);
}

static void null_pointers(RinContext *context, const char *model)
{
    RinResult result = { .struct_size = sizeof result };
    uint32_t id = 1;
    double figure;
    NULL_POINTER(rin_create(NULL));
    NULL_POINTER(rin_destroy(NULL));
    NULL_POINTER(rin_load_options_init(NULL));
    NULL_POINTER(rin_generate_options_init(NULL));
    NULL_POINTER(rin_load_model(context, NULL, NULL));
    NULL_POINTER(rin_get_model_info(context, NULL));
    NULL_POINTER(rin_plan(context, model, NULL, NULL));
    NULL_POINTER(rin_get_mode(context, NULL));
    NULL_POINTER((RinStatus)rin_encode(context, NULL, 0, &id, 1));
    NULL_POINTER((RinStatus)rin_encode(context, "a", 0, NULL, 1));
    NULL_POINTER((RinStatus)rin_decode(context, NULL, 1, NULL, 0));
    NULL_POINTER((RinStatus)rin_decode(context, &id, 1, NULL, 1));
    NULL_POINTER(rin_infer(context, NULL, 1, 1, &result));
    NULL_POINTER(rin_infer(context, &id, 1, 1, NULL));
    NULL_POINTER(rin_generate(context, NULL, NULL, NULL, NULL, NULL));
    NULL_POINTER(rin_free_result(NULL));
    NULL_POINTER(rin_get_energy_joules(context, NULL));
    NULL_POINTER(rin_get_energy_millijoules(context, NULL));
    NULL_POINTER(rin_get_inference_count(context, NULL));
    NULL_POINTER(rin_get_total_tokens(context, NULL));
    NULL_POINTER(rin_profile(context, RIN_MODE_TRANSFORMER, 0, 1, NULL, &figure));
    NULL_POINTER(rin_profile(context, RIN_MODE_TRANSFORMER, 0, 1, &figure, NULL));
    NULL_POINTER(rin_version_numbers(NULL, NULL, NULL));
    NULL_POINTER(rin_generate_ids(context, NULL, 1, NULL, NULL, NULL, NULL));
    NULL_POINTER((RinStatus)rin_logits(context, NULL, 1, 0, NULL, 0));
    NULL_POINTER((RinStatus)rin_logits(context, &id, 1, 0, NULL, 1));
    NULL_POINTER((RinStatus)rin_describe(context, NULL, 1));
    NULL_POINTER((RinStatus)rin_get_digest(context, NULL, 1));
    NULL_POINTER(rin_infer_rows(context, NULL, 1, 1, NULL, 0));
    NULL_POINTER(rin_infer_rows(context, NULL, 0, 1, NULL, 1));
    NULL_POINTER(rin_get_machine_joules(context, NULL));
    NULL_POINTER(rin_import_model(NULL, "x", NULL, NULL, NULL));
    NULL_POINTER(rin_import_model("x", NULL, NULL, NULL, NULL));
    NULL_POINTER(rin_write_network(NULL, "{}", NULL, 0, NULL, NULL, NULL));
    NULL_POINTER(rin_write_network("x", NULL, NULL, 0, NULL, NULL, NULL));
    NULL_POINTER(rin_write_network("x", "{}", NULL, 1, NULL, NULL, NULL));
    NULL_POINTER(rin_write_decoder(NULL, "{}", "{}", 2, NULL, 0, NULL, NULL, NULL));
    NULL_POINTER(rin_write_decoder("x", NULL, "{}", 2, NULL, 0, NULL, NULL, NULL));
    NULL_POINTER(rin_write_decoder("x", "{}", NULL, 2, NULL, 0, NULL, NULL, NULL));
    NULL_POINTER(rin_write_decoder("x", "{}", "{}", 2, NULL, 1, NULL, NULL, NULL));
    NULL_POINTER(rin_train(NULL, NULL, NULL, NULL));
}

static void sizes(RinContext *context, const char *model)
{
    size_t wrong[] = { 0, 8, sizeof(RinModelInfo) / 2, SIZE_MAX };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        RinModelInfo info = { .struct_size = wrong[i] };
        RinPlan plan = { .struct_size = wrong[i] };
        RinResult result = { .struct_size = wrong[i] };
        RinLoadOptions load = { .struct_size = wrong[i] };
        RinGenerateOptions generate = { .struct_size = wrong[i] };
        uint32_t id = 1;
        EXPECT(rin_get_model_info(context, &info), RIN_STATUS_STRUCT_SIZE, "RinModelInfo.struct_size");
        EXPECT(rin_plan(context, model, NULL, &plan), RIN_STATUS_STRUCT_SIZE, "RinPlan.struct_size");
        EXPECT(rin_infer(context, &id, 1, 1, &result), RIN_STATUS_STRUCT_SIZE, "RinResult.struct_size");
        EXPECT(rin_free_result(&result), RIN_STATUS_STRUCT_SIZE, "sizeof(RinResult)");
        EXPECT(rin_load_options_init(&load), RIN_STATUS_STRUCT_SIZE, "RinLoadOptions");
        EXPECT(rin_load_model(context, model, &load), RIN_STATUS_STRUCT_SIZE, "RinLoadOptions");
        EXPECT(rin_generate_options_init(&generate), RIN_STATUS_STRUCT_SIZE, "RinGenerateOptions");
        EXPECT(rin_generate(context, "a", &generate, NULL, NULL, NULL), RIN_STATUS_STRUCT_SIZE, "RinGenerateOptions");
    }
    /* A program of a later version has more fields; they are left alone. */
    struct {
        RinPlan plan;
        uint64_t later;
    } longer = { .plan = { .struct_size = sizeof longer }, .later = 77 };
    GOOD(rin_plan(context, model, NULL, &longer.plan));
    CHECK(longer.plan.total_bytes > 0 && longer.later == 77 && longer.plan.struct_size == sizeof longer);
}

static void values(RinContext *context, const char *model)
{
    RinLoadOptions load = { .struct_size = sizeof load };
    RinGenerateOptions generate = { .struct_size = sizeof generate };
    RinResult result = { .struct_size = sizeof result };
    const char *stop[] = { "fine", NULL };
    uint32_t ids[] = { 1, UINT32_MAX };
    double a, b;
    char text[4];
    EXPECT(rin_set_temperature(context, -1), RIN_STATUS_INVALID_INPUT, "temp");
    EXPECT(rin_set_temperature(context, NAN), RIN_STATUS_INVALID_INPUT, "temp");
    EXPECT(rin_set_top_p(context, 1.5f), RIN_STATUS_INVALID_INPUT, "top_p");
    EXPECT(rin_set_mode(context, RIN_MODE_SNN), RIN_STATUS_UNSUPPORTED, "mode");
    EXPECT(rin_set_mode(context, 99), RIN_STATUS_INVALID_INPUT, "99");
    EXPECT(rin_set_power_budget(context, NAN), RIN_STATUS_INVALID_INPUT, "above 0");
    EXPECT(rin_set_power_budget(context, 20), RIN_STATUS_UNMEASURED, "sensor");
    EXPECT(rin_profile(context, 4, 0, 0, &a, &b), RIN_STATUS_INVALID_INPUT, "iterations");
    EXPECT(rin_profile(context, 0, 0, 1, &a, &b), RIN_STATUS_UNSUPPORTED, "mode");
    EXPECT(rin_infer(context, ids, 2, 1, &result), RIN_STATUS_INVALID_INPUT, "4294967295");
    EXPECT(rin_infer(context, ids, 0, 1, &result), RIN_STATUS_INVALID_INPUT, "empty");
    EXPECT(rin_infer(context, ids, SIZE_MAX, 1, &result), RIN_STATUS_INVALID_INPUT, "elements");
    EXPECT((RinStatus)rin_decode(context, ids, 2, text, 4), RIN_STATUS_INVALID_INPUT, "4294967295");
    EXPECT((RinStatus)rin_encode(context, "a", 8, ids, 2), RIN_STATUS_INVALID_INPUT, "RIN_TEXT_");
    EXPECT((RinStatus)rin_encode(context, "a\xff", 0, ids, 2), RIN_STATUS_INVALID_INPUT, "UTF-8 text: byte 1");
    EXPECT(rin_generate(context, "\xc3", NULL, NULL, NULL, NULL), RIN_STATUS_INVALID_INPUT, "prompt is no UTF-8");
    EXPECT(rin_load_model(context, "\xff", NULL), RIN_STATUS_INVALID_INPUT, "path is no UTF-8");
    GOOD(rin_generate_options_init(&generate));
    generate.stop = stop;
    generate.n_stop = 2;
    EXPECT(rin_generate(context, "a", &generate, NULL, NULL, NULL), RIN_STATUS_INVALID_INPUT, "stop is a null pointer");
    generate.n_stop = 0;
    generate.min_p = 2;
    EXPECT(rin_generate(context, "a", &generate, NULL, NULL, NULL), RIN_STATUS_INVALID_INPUT, "min_p");
    GOOD(rin_load_options_init(&load));
    load.tier = "quantum";
    EXPECT(rin_load_model(context, model, &load), RIN_STATUS_INVALID_INPUT, "quantum");
    load.tier = NULL;
    load.kv_type = "f8";
    EXPECT(rin_load_model(context, model, &load), RIN_STATUS_INVALID_INPUT, "f8");
    load.kv_type = NULL;
    load.affinity = 7;
    EXPECT(rin_load_model(context, model, &load), RIN_STATUS_INVALID_INPUT, "RinAffinity");
    load.affinity = RIN_AFFINITY_NONE;
    load.flags = 64;
    EXPECT(rin_load_model(context, model, &load), RIN_STATUS_INVALID_INPUT, "RIN_LOAD_");
    load.flags = 0;
    load.threads = 100000;
    EXPECT(rin_plan(NULL, model, &load, &(RinPlan){ .struct_size = sizeof(RinPlan) }), RIN_STATUS_INVALID_INPUT, "threads");
    load.threads = 1;
    load.memory_limit = 1;
    EXPECT(rin_load_model(context, model, &load), RIN_STATUS_MEMORY, "does not fit");
    CHECK(strcmp(rin_last_error_kind(), "DoesNotFit") == 0);
    /* What fails to load leaves nothing loaded. */
    EXPECT(rin_generate(context, "a", NULL, NULL, NULL, NULL), RIN_STATUS_NOT_INITIALIZED, "load one");
    EXPECT(rin_load_model(context, "no such file", NULL), RIN_STATUS_WEIGHTS, "no such file");
    GOOD(rin_load_model(context, model, NULL));
}

struct inside {
    RinContext *context;
    const char *model;
    int calls;
};

/* Calls everything from within. */
static int32_t call_back(const char *text, size_t bytes, void *user)
{
    struct inside *inside = user;
    CHECK(strlen(text) == bytes && bytes > 0);
    if (inside->calls++ == 0) {
        each(inside->context, inside->model, RIN_STATUS_BUSY, "callback");
    }
    return inside->calls == 3;
}

static int32_t destroy(const char *text, size_t bytes, void *user)
{
    (void)text, (void)bytes;
    RinContext **context = user;
    if (*context != NULL) {
        GOOD(rin_destroy(*context));
        each(*context, "", RIN_STATUS_CLOSED, "destroyed");
        *context = NULL;
    }
    return 0;
}

static void callbacks(RinContext **context, const char *model)
{
    RinGenerateOptions options = { .struct_size = sizeof options };
    RinResult result = { .struct_size = sizeof result };
    struct inside inside = { *context, model, 0 };
    GOOD(rin_generate_options_init(&options));
    options.max_tokens = 20;
    options.ignore_eos = 1;
    EXPECT(rin_generate(*context, "a", &options, call_back, &inside, &result), RIN_STATUS_CANCELLED, "callback");
    CHECK(inside.calls >= 3 && result.finish == RIN_FINISH_CANCELLED && result.num_tokens > 0 && result.num_tokens < 20);
    CHECK(result.text != NULL && strlen(result.text) == result.text_bytes);
    GOOD(rin_free_result(&result));
    CHECK(result.tokens == NULL && result.text == NULL && result.struct_size == sizeof result);
    GOOD(rin_free_result(&result));
    /* A context that its own callback destroys serves that generation to its end. */
    RinContext *gone = *context;
    GOOD(rin_generate(*context, "a", &options, destroy, context, &result));
    CHECK(result.num_tokens == 20);
    GOOD(rin_free_result(&result));
    each(gone, model, RIN_STATUS_CLOSED, "destroyed");
    EXPECT(rin_destroy(gone), RIN_STATUS_CLOSED, "destroyed");
}

struct job {
    RinContext *context;
    char digest[72];
};

static void *work(void *user)
{
    struct job *job = user;
    RinGenerateOptions options = { .struct_size = sizeof options };
    RinResult result = { .struct_size = sizeof result };
    rin_generate_options_init(&options);
    options.max_tokens = 8;
    options.ignore_eos = 1;
    GOOD(rin_generate(job->context, "a", &options, NULL, NULL, &result));
    memcpy(job->digest, result.digest, sizeof job->digest);
    GOOD(rin_free_result(&result));
    /* What goes wrong here is not seen by other threads. */
    NULL_POINTER(rin_destroy(NULL));
    return NULL;
}

/* Threads on one context and on two, and the end of one meanwhile. */
static void threads(RinContext *context, const char *model)
{
    enum { N = 4 };
    RinContext *other = NULL;
    struct job jobs[N];
    pthread_t thread[N];
    uint64_t before, after;
    GOOD(rin_create(&other));
    GOOD(rin_load_model(other, model, NULL));
    GOOD(rin_get_inference_count(context, &before));
    for (int i = 0; i < N; i++) {
        jobs[i].context = i % 2 == 0 ? context : other;
        CHECK(pthread_create(&thread[i], NULL, work, &jobs[i]) == 0);
    }
    for (int i = 0; i < N; i++) {
        CHECK(pthread_join(thread[i], NULL) == 0);
        CHECK(strncmp(jobs[i].digest, "sha256:", 7) == 0 && strcmp(jobs[i].digest, jobs[0].digest) == 0);
    }
    CHECK(strcmp(rin_last_error(), "") == 0);
    GOOD(rin_get_inference_count(context, &after));
    CHECK(after == before + N / 2);
    GOOD(rin_destroy(other));
}

int main(int argc, char **argv)
{
    RinContext *context = NULL;
    char no_context;
    if (argc != 2) {
        fprintf(stderr, "usage: %s MODEL\n", argv[0]);
        return 2;
    }
    const char *model = argv[1];
    CHECK(strcmp(rin_last_error(), "") == 0 && strcmp(rin_last_error_kind(), "") == 0);
    GOOD(rin_create(&context));
    CHECK(context != NULL);
    each(NULL, model, RIN_STATUS_INVALID_INPUT, "null pointer");
    each((RinContext *)&no_context, model, RIN_STATUS_CLOSED, "never existed");
    GOOD(rin_load_model(context, model, NULL));
    null_pointers(context, model);
    sizes(context, model);
    values(context, model);
    threads(context, model);
    callbacks(&context, model);
    fprintf(stderr, "%d failures\n", failures);
    return failures > 0;
}
