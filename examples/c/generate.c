/*
 * Generates text and writes it as it comes.
 *
 *     cc -std=c11 generate.c $(pkg-config --cflags --libs rin) -o generate
 *     ./generate MODEL [PROMPT [TOKENS [TEMPERATURE]]]
 *
 * Text goes to standard output, everything else to standard error. Ctrl-C ends the generation, not the program.
 */
#include <inttypes.h>
#include <math.h>
#include <rin.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

static volatile sig_atomic_t interrupted;

static void interrupt(int signal)
{
    (void)signal;
    interrupted = 1;
}

/* Hears text; anything but 0 ends the generation. */
static int32_t hear(const char *text, size_t bytes, void *user)
{
    FILE *out = user;
    if (fwrite(text, 1, bytes, out) != bytes || fflush(out) != 0) {
        return 1;
    }
    return interrupted;
}

static int fail(const char *what)
{
    fprintf(stderr, "error: %s: %s (%s)\n", what, rin_last_error(), rin_last_error_kind());
    return EXIT_FAILURE;
}

/* Says what the model is and what it takes, before it is loaded and after. */
static int describe(RinContext *context, const char *path)
{
    RinModelInfo info = { .struct_size = sizeof info };
    RinPlan plan = { .struct_size = sizeof plan };
    if (rin_plan(NULL, path, NULL, &plan) != RIN_STATUS_OK) {
        return fail(path);
    }
    fprintf(stderr, "%" PRIu64 " bytes: weights %" PRIu64 ", state %" PRIu64 ", scratch %" PRIu64 ", vocabulary %" PRIu64 "\n",
            plan.total_bytes, plan.weights_bytes, plan.state_bytes, plan.scratch_bytes, plan.vocabulary_bytes);
    if (!plan.fits) {
        fprintf(stderr, "error: only %" PRIu64 " bytes are there\n", plan.limit_bytes);
        return EXIT_FAILURE;
    }
    if (rin_load_model(context, path, NULL) != RIN_STATUS_OK || rin_get_model_info(context, &info) != RIN_STATUS_OK) {
        return fail(path);
    }
    fprintf(stderr, "%s, %" PRIu64 " parameters in %" PRIu32 " layers, a context of %" PRIu32 " tokens\n",
            info.architecture, info.num_parameters, info.num_layers, info.context);
    return EXIT_SUCCESS;
}

static int run(RinContext *context, int argc, char **argv)
{
    const char *prompt = argc > 2 ? argv[2] : "Once upon a time";
    RinGenerateOptions options = { .struct_size = sizeof options };
    RinResult result = { .struct_size = sizeof result };
    int code = describe(context, argv[1]);
    if (code != EXIT_SUCCESS) {
        return code;
    }
    if (argc > 4 && rin_set_temperature(context, strtof(argv[4], NULL)) != RIN_STATUS_OK) {
        return fail("temperature");
    }
    if (rin_generate_options_init(&options) != RIN_STATUS_OK) {
        return fail("options");
    }
    options.max_tokens = argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 10) : 100;
    RinStatus status = rin_generate(context, prompt, &options, hear, stdout, &result);
    if (status != RIN_STATUS_OK && status != RIN_STATUS_CANCELLED) {
        return fail("generation");
    }
    fprintf(stderr, "\n%" PRIu32 " tokens after %" PRIu32 ", ", result.num_tokens, result.prompt_tokens);
    if (!isnan(result.tokens_per_second)) {
        fprintf(stderr, "%.1f tokens/s, ", result.tokens_per_second);
    }
    if (result.energy_status == RIN_ENERGY_STATUS_MEASURED) {
        fprintf(stderr, "%.3f J +- %.3f J\n", result.energy_joules, result.energy_uncertainty_joules);
    } else {
        fprintf(stderr, "energy unmeasured\n");
    }
    fprintf(stderr, "digest %s\n", result.digest);
    if (rin_free_result(&result) != RIN_STATUS_OK) {
        return fail("result");
    }
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    RinContext *context = NULL;
    int code;
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL [PROMPT [TOKENS [TEMPERATURE]]]\n", argv[0]);
        return 2;
    }
    signal(SIGINT, interrupt);
    if (rin_create(&context) != RIN_STATUS_OK) {
        return fail("context");
    }
    code = run(context, argc, argv);
    if (rin_destroy(context) != RIN_STATUS_OK) {
        return fail("context");
    }
    return code;
}
