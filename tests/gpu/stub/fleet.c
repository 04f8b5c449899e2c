/* A stand-in for libnvidia-ml.so.1 and, built with -DIXML, for Iluvatar's libixml.so: no driver and no device behind it.
 *
 * It answers from the file `fleet` in the folder above its own (<folder>/lib/<this library>, <folder>/fleet), read anew
 * at each call, so that what is told changes while a program runs. Who writes the file replaces it atomically. Lines:
 *
 *   <vendor> - <key> <value>         of the driver: state, driver, sdk, library
 *   <vendor> <slot> <key> <value>    of the device in a slot; slots are listed in rising order, and their rank is the index
 *
 * What has no line is not supported. `state` is ok, hang, lost (device) or an NVML error number (driver). The symbol
 * `simulated_fleet` tells a binding that nothing of this is real.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <libgen.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef IXML
#define VENDOR "iluvatar"
#else
#define VENDOR "nvidia"
#endif

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, TIMEOUT = 10,
       GPU_IS_LOST = 15, UNKNOWN = 999 };
enum { SLOTS = 64, DRIVER = -1, TEXT = 1 << 18, LINE = 512 };
enum { XID_EVENT = 8, DEVICE_IS_GPU = 0, DEVICE_IS_SWITCH = 2 };

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } memory_v2_t;
typedef struct {
    char busIdLegacy[16];
    unsigned int domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} pci_t;
typedef struct { unsigned int gpu, memory; } utilization_t;
typedef struct { unsigned int version, sensor; int degrees; } temperature_t;
typedef struct { unsigned int pid; unsigned long long used; } process_v1_t;
typedef struct { unsigned int pid; unsigned long long used; unsigned int gpuInstance, computeInstance; } process_t;
typedef struct { void *device; unsigned long long type, data; unsigned int gpuInstance, computeInstance; } event_t;

const int simulated_fleet = 1;
static __thread char text[TEXT];

/* The whole file, or nothing: a program that finds no fleet finds no device. */
static void load(void) {
    Dl_info info;
    char library[4096], path[4200];
    text[0] = 0;
    if (!dladdr((void *)&simulated_fleet, &info)) return;
    snprintf(library, sizeof library, "%s", info.dli_fname);
    snprintf(path, sizeof path, "%s/../fleet", dirname(library));
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    ssize_t got, length = 0;
    while (length < TEXT - 1 && (got = read(file, text + length, TEXT - 1 - length)) > 0) length += got;
    text[length] = 0;
    close(file);
}

/* The value of the nth line of this key; 0 where there is none. Reads the text that `load` left. */
static int find(int slot, const char *key, int nth, char value[LINE]) {
    char prefix[64], where[16];
    snprintf(where, sizeof where, slot == DRIVER ? "-" : "%d", slot);
    size_t length = (size_t)snprintf(prefix, sizeof prefix, VENDOR " %s %s ", where, key);
    for (char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n')
        if (!strncmp(line, prefix, length) && nth-- == 0) {
            snprintf(value, LINE, "%.*s", (int)strcspn(line + length, "\n"), line + length);
            return 1;
        }
    return 0;
}

static void hang(void) {
    for (;;) pause();
}

/* A handle is the slot, and for a MIG device its place among the slot's instances besides; never zero. */
static void *handle_of(int slot, int mig) { return (void *)(size_t)((slot + 1) | (mig + 1) << 16); }
static int slot_of(void *handle) { return (int)((size_t)handle & 0xffff) - 1; }
static int mig_of(void *handle) { return (int)((size_t)handle >> 16) - 1; }

/* Loads the file; then whether the device answers at all. One that is no longer listed is lost to who holds it. */
static int reach(void *handle) {
    char value[LINE];
    load();
    if (find(DRIVER, "state", 0, value) && !strcmp(value, "hang")) hang();
    if (!find(slot_of(handle), "uuid", 0, value)) return GPU_IS_LOST;
    if (!find(slot_of(handle), "state", 0, value)) return SUCCESS;
    if (!strcmp(value, "hang")) hang();
    return strcmp(value, "lost") ? SUCCESS : GPU_IS_LOST;
}

static int text_of(int slot, const char *key, char *target, unsigned int length) {
    char value[LINE];
    if (!find(slot, key, 0, value)) return NOT_SUPPORTED;
    if (strlen(value) >= length) return INSUFFICIENT_SIZE;
    strcpy(target, value);
    return SUCCESS;
}

static int numbers(void *handle, const char *key, int count, unsigned long long *into) {
    char value[LINE], *rest = value;
    int code = reach(handle);
    if (code != SUCCESS) return code;
    if (!find(slot_of(handle), key, 0, value)) return NOT_SUPPORTED;
    for (int i = 0; i < count; i++) into[i] = strtoull(rest, &rest, 10);
    return SUCCESS;
}

static int number(void *handle, const char *key, unsigned int *into) {
    unsigned long long value;
    int code = numbers(handle, key, 1, &value);
    if (code == SUCCESS) *into = (unsigned int)value;
    return code;
}

int nvmlInitWithFlags(unsigned int flags) {
    char value[LINE];
    (void)flags;
    load();
    if (!find(DRIVER, "state", 0, value)) return 9; /* driver not loaded */
    if (!strcmp(value, "hang")) hang();
    return strcmp(value, "ok") ? atoi(value) : SUCCESS;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int code) {
    switch (code) {
    case 9: return "Driver Not Loaded";
    case GPU_IS_LOST: return "GPU is lost";
    case 18: return "Driver/library version mismatch";
    default: return "Unknown Error";
    }
}

static int system_text(const char *key, char *target, unsigned int length) {
    load();
    return text_of(DRIVER, key, target, length);
}
int nvmlSystemGetDriverVersion(char *target, unsigned int length) { return system_text("driver", target, length); }
int nvmlSystemGetNVMLVersion(char *target, unsigned int length) { return system_text("library", target, length); }
int nvmlSystemGetCudaDriverVersion(int *version) {
    char value[LINE];
    load();
    if (!find(DRIVER, "sdk", 0, value)) return NOT_SUPPORTED;
    *version = atoi(value);
    return SUCCESS;
}
int nvmlSystemGetCudaDriverVersion_v2(int *version) { return nvmlSystemGetCudaDriverVersion(version); }

int nvmlDeviceGetCount_v2(unsigned int *count) {
    char value[LINE];
    load();
    if (find(DRIVER, "state", 0, value) && !strcmp(value, "hang")) hang();
    *count = 0;
    for (int slot = 0; slot < SLOTS; slot++) *count += (unsigned int)find(slot, "uuid", 0, value);
    return SUCCESS;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **handle) {
    char value[LINE];
    load();
    for (int slot = 0; slot < SLOTS; slot++)
        if (find(slot, "uuid", 0, value) && index-- == 0) {
            *handle = handle_of(slot, -1);
            return reach(*handle);
        }
    return INVALID_ARGUMENT;
}

/* mig <gpu instance> <compute instance> <total> <used> <uuid> <name> */
static int mig(void *handle, unsigned long long figures[4], char uuid[96], char name[96]) {
    char value[LINE];
    if (!find(slot_of(handle), "mig", mig_of(handle), value)) return NOT_FOUND;
    int found = sscanf(value, "%llu %llu %llu %llu %95s %95[^\n]", figures, figures + 1, figures + 2, figures + 3, uuid, name);
    return found == 6 ? SUCCESS : UNKNOWN;
}

static int identity(void *handle, const char *key, char *target, unsigned int length) {
    unsigned long long figures[4];
    char uuid[96], name[96];
    int code = reach(handle);
    if (code != SUCCESS) return code;
    if (mig_of(handle) < 0) return text_of(slot_of(handle), key, target, length);
    if ((code = mig(handle, figures, uuid, name)) != SUCCESS) return code;
    snprintf(target, length, "%s", strcmp(key, "uuid") ? name : uuid);
    return SUCCESS;
}
int nvmlDeviceGetUUID(void *handle, char *target, unsigned int length) { return identity(handle, "uuid", target, length); }
int nvmlDeviceGetName(void *handle, char *target, unsigned int length) { return identity(handle, "name", target, length); }

/* memory <total> <reserved> <used by processes> */
int nvmlDeviceGetMemoryInfo_v2(void *handle, memory_v2_t *memory) {
    unsigned long long figures[4];
    char uuid[96], name[96];
    int code = reach(handle);
    if (code == SUCCESS && mig_of(handle) >= 0) {
        if ((code = mig(handle, figures, uuid, name)) != SUCCESS) return code;
        memory->total = figures[2];
        memory->used = figures[3];
        memory->reserved = 0;
    } else {
        if ((code = numbers(handle, "memory", 3, figures)) != SUCCESS) return code;
        memory->total = figures[0];
        memory->reserved = figures[1];
        memory->used = figures[2];
    }
    memory->free = memory->total - memory->reserved - memory->used;
    return SUCCESS;
}
int nvmlDeviceGetMemoryInfo(void *handle, memory_t *memory) {
    memory_v2_t found;
    int code = nvmlDeviceGetMemoryInfo_v2(handle, &found);
    if (code != SUCCESS) return code;
    memory->total = found.total;
    memory->free = found.free;
    memory->used = found.used + found.reserved;
    return SUCCESS;
}

int nvmlDeviceGetMinorNumber(void *handle, unsigned int *minor) { return number(handle, "minor", minor); }
int nvmlDeviceGetPciInfo_v3(void *handle, pci_t *pci) {
    int code = reach(handle);
    if (code != SUCCESS) return code;
    memset(pci, 0, sizeof *pci);
    return text_of(slot_of(handle), "pci", pci->busId, sizeof pci->busId);
}
int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
    unsigned long long figures[2];
    int code = numbers(handle, "capability", 2, figures);
    if (code != SUCCESS) return code;
    *major = (int)figures[0];
    *minor = (int)figures[1];
    return SUCCESS;
}
int nvmlDeviceGetUtilizationRates(void *handle, utilization_t *rates) {
    unsigned long long figures[2];
    int code = numbers(handle, "utilisation", 2, figures);
    if (code != SUCCESS) return code;
    rates->gpu = (unsigned int)figures[0];
    rates->memory = (unsigned int)figures[1];
    return SUCCESS;
}
int nvmlDeviceGetTemperature(void *handle, unsigned int sensor, unsigned int *degrees) {
    return sensor == 0 ? number(handle, "temperature", degrees) : NOT_SUPPORTED;
}
int nvmlDeviceGetPowerUsage(void *handle, unsigned int *milliwatts) { return number(handle, "power", milliwatts); }
int nvmlDeviceGetPowerManagementLimit(void *handle, unsigned int *milliwatts) {
    return number(handle, "power-limit", milliwatts);
}
/* clock <type 0 graphics, 1 SM, 2 memory> */
int nvmlDeviceGetClockInfo(void *handle, unsigned int type, unsigned int *mhz) {
    char key[32];
    snprintf(key, sizeof key, "clock%u", type);
    return number(handle, key, mhz);
}
int nvmlDeviceGetTopologyCommonAncestor(void *one, void *other, unsigned int *level) {
    char key[32];
    int code = reach(other);
    if (code != SUCCESS) return code;
    snprintf(key, sizeof key, "topology%d", slot_of(other));
    return number(one, key, level);
}

/* process <pid> <bytes>; without the line `processes` the list is not supported */
static int processes(void *handle, unsigned int *count, unsigned long long (*into)[2]) {
    char value[LINE];
    unsigned int found = 0;
    int code = reach(handle);
    if (code != SUCCESS) return code;
    if (!find(slot_of(handle), "processes", 0, value)) return NOT_SUPPORTED;
    for (; find(slot_of(handle), "process", (int)found, value); found++)
        if (into && found < *count) sscanf(value, "%llu %llu", &into[found][0], &into[found][1]);
    code = found > *count || (found && !into) ? INSUFFICIENT_SIZE : SUCCESS;
    *count = found;
    return code;
}

#ifdef IXML
int nvmlDeviceGetComputeRunningProcesses(void *handle, unsigned int *count, process_v1_t *infos) {
    unsigned long long found[*count + 1][2];
    int code = processes(handle, count, infos ? found : NULL);
    for (unsigned int i = 0; code == SUCCESS && i < *count; i++)
        infos[i] = (process_v1_t){(unsigned int)found[i][0], found[i][1]};
    return code;
}
int ixmlDeviceGetHealth(void *handle, unsigned long long *health) { return numbers(handle, "health", 1, health); }
int ixmlDeviceGetEccErros(void *handle, unsigned int *corrected, unsigned int *uncorrected) {
    unsigned long long figures[2];
    int code = numbers(handle, "ecc", 2, figures);
    if (code != SUCCESS) return code;
    *corrected = (unsigned int)figures[0];
    *uncorrected = (unsigned int)figures[1];
    return SUCCESS;
}
#else
int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned int *count, process_t *infos) {
    unsigned long long found[*count + 1][2];
    int code = processes(handle, count, infos ? found : NULL);
    for (unsigned int i = 0; code == SUCCESS && i < *count; i++)
        infos[i] = (process_t){(unsigned int)found[i][0], found[i][1], 0xffffffff, 0xffffffff};
    return code;
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned int *count, process_t *infos) {
    (void)infos;
    *count = 0;
    return reach(handle);
}
int nvmlDeviceGetTemperatureV(void *handle, temperature_t *temperature) {
    unsigned int degrees;
    int code = nvmlDeviceGetTemperature(handle, temperature->sensor, &degrees);
    if (code == SUCCESS) temperature->degrees = (int)degrees;
    return code;
}
/* ecc <corrected> <uncorrected>, both since the driver was loaded */
int nvmlDeviceGetTotalEccErrors(void *handle, unsigned int type, unsigned int counter, unsigned long long *count) {
    unsigned long long figures[2];
    int code = numbers(handle, "ecc", 2, figures);
    if (code != SUCCESS) return code;
    if (type > 1 || counter != 0) return NOT_SUPPORTED;
    *count = figures[type];
    return SUCCESS;
}
/* remapped <corrected> <uncorrected> <pending> <failed> */
int nvmlDeviceGetRemappedRows(void *handle, unsigned int *corrected, unsigned int *uncorrected, unsigned int *pending,
                              unsigned int *failed) {
    unsigned long long figures[4];
    int code = numbers(handle, "remapped", 4, figures);
    if (code != SUCCESS) return code;
    *corrected = (unsigned int)figures[0];
    *uncorrected = (unsigned int)figures[1];
    *pending = (unsigned int)figures[2];
    *failed = (unsigned int)figures[3];
    return SUCCESS;
}
int nvmlDeviceGetMigMode(void *handle, unsigned int *current, unsigned int *pending) {
    int code = number(handle, "mig-mode", current);
    *pending = *current;
    return code;
}
int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned int *count) {
    unsigned int mode;
    *count = 0;
    int code = number(handle, "mig-mode", &mode);
    if (code == SUCCESS) *count = 7;
    return code == NOT_SUPPORTED ? SUCCESS : code;
}
int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned int index, void **instance) {
    char value[LINE];
    int code = reach(handle);
    if (code != SUCCESS) return code;
    if (!find(slot_of(handle), "mig", (int)index, value)) return NOT_FOUND;
    *instance = handle_of(slot_of(handle), (int)index);
    return SUCCESS;
}
static int mig_figure(void *handle, int which, unsigned int *id) {
    unsigned long long figures[4];
    char uuid[96], name[96];
    int code = reach(handle);
    if (code == SUCCESS) code = mig(handle, figures, uuid, name);
    if (code == SUCCESS) *id = (unsigned int)figures[which];
    return code;
}
int nvmlDeviceGetGpuInstanceId(void *handle, unsigned int *id) { return mig_figure(handle, 0, id); }
int nvmlDeviceGetComputeInstanceId(void *handle, unsigned int *id) { return mig_figure(handle, 1, id); }

/* nvlink <slot of the peer, or switch>, one line for each active link */
static int link_peer(void *handle, unsigned int link, char value[LINE]) {
    int code = reach(handle);
    if (code != SUCCESS) return code;
    return find(slot_of(handle), "nvlink", (int)link, value) ? SUCCESS : NOT_SUPPORTED;
}
int nvmlDeviceGetNvLinkState(void *handle, unsigned int link, unsigned int *active) {
    char value[LINE];
    int code = link_peer(handle, link, value);
    *active = code == SUCCESS;
    return code;
}
int nvmlDeviceGetNvLinkRemoteDeviceType(void *handle, unsigned int link, unsigned int *type) {
    char value[LINE];
    int code = link_peer(handle, link, value);
    if (code == SUCCESS) *type = strcmp(value, "switch") ? DEVICE_IS_GPU : DEVICE_IS_SWITCH;
    return code;
}
int nvmlDeviceGetNvLinkRemotePciInfo_v2(void *handle, unsigned int link, pci_t *pci) {
    char value[LINE];
    int code = link_peer(handle, link, value);
    if (code != SUCCESS) return code;
    memset(pci, 0, sizeof *pci);
    if (!strcmp(value, "switch")) {
        strcpy(pci->busId, "00000000:05:00.0");
        return SUCCESS;
    }
    return text_of(atoi(value), "pci", pci->busId, sizeof pci->busId);
}

static unsigned long long last_event;

/* xid <serial number> <code>: events that came after the set was made are told once, in their order */
static int next_event(event_t *event) {
    char value[LINE];
    unsigned long long best = 0, serial, code;
    load();
    for (int slot = 0; slot < SLOTS; slot++)
        for (int nth = 0; find(slot, "xid", nth, value); nth++)
            if (sscanf(value, "%llu %llu", &serial, &code) == 2 && serial > last_event && (!best || serial < best)) {
                best = serial;
                *event = (event_t){handle_of(slot, -1), XID_EVENT, code, 0xffffffff, 0xffffffff};
            }
    if (best) last_event = best;
    return best != 0;
}
int nvmlEventSetCreate(void **set) {
    static int made;
    event_t seen;
    while (next_event(&seen)) {}
    *set = &made;
    return SUCCESS;
}
int nvmlDeviceRegisterEvents(void *handle, unsigned long long types, void *set) {
    (void)types, (void)set;
    return reach(handle);
}
int nvmlDeviceGetSupportedEventTypes(void *handle, unsigned long long *types) {
    *types = XID_EVENT;
    return reach(handle);
}
int nvmlEventSetWait_v2(void *set, event_t *event, unsigned int timeout_ms) {
    (void)set;
    for (unsigned int waited = 0;; waited += 10) {
        if (next_event(event)) return SUCCESS;
        if (waited >= timeout_ms) return TIMEOUT;
        usleep(10000);
    }
}
int nvmlEventSetFree(void *set) {
    (void)set;
    return SUCCESS;
}
#endif
