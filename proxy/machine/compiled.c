/* What events and requests pass, as machine code.
 *
 * plain.py has the same in Python, says what each of it is for, and is used where this is not built. Here what a socket
 * takes is sent by a call of the system: uvloop's transports also send at once, but do more for it. The transport is given
 * the rest, and everything while bytes wait in it, so that nothing is overtaken, and it also finds out about errors.
 *
 * No function keeps a borrowed reference over a call that may run Python code. The types have no tp_clear: what a cycle of
 * references through them also passes, a protocol (uvloop's transports have none either) or a list, can be cleared.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0  /* macOS: Python ignores SIGPIPE */
#endif

#define LONG_READ 1024  /* as in plain.py */
#define SIZE_DIGITS 3   /* as in plain.py */
#define MOST_FRAMES 256  /* as in plain.py */
#define MOST_BYTES (64 * 1024)  /* as in plain.py */
#define FIRST_BYTES 4000  /* memory for the first frames: most streams that come in few reads need no more */
#define MOST_DIGITS 7   /* of a chunk's size: 256 MiB, more than is ever read at once */

static PyObject *monotonic;  /* time.monotonic */
static PyObject *name_of_write, *name_of_size, *name_of_is_closing, *name_of_get_extra_info, *name_of_fileno, *name_of_abort, *socket_text;

/* Call a method without arguments that returns a number, 0 or more; -1 with an exception. */
static Py_ssize_t number_from(PyObject *object, PyObject *method)
{
    PyObject *result = PyObject_CallMethodNoArgs(object, method);
    if (result == NULL)
        return -1;
    Py_ssize_t number = PyLong_AsSsize_t(result);  /* bool is a kind of int */
    Py_DECREF(result);
    if (number < 0 && !PyErr_Occurred())
        PyErr_Format(PyExc_ValueError, "%U() is %zd", method, number);
    return number < 0 ? -1 : number;
}

static int write_by(PyObject *transport, PyObject *data)
{
    PyObject *result = PyObject_CallMethodOneArg(transport, name_of_write, data);
    if (result == NULL)
        return -1;
    Py_DECREF(result);
    return 0;
}

/* DirectWriter: a transport of uvloop's, and the descriptor of its socket. Whether bytes wait in the transport is known
 * without asking it, as nobody else writes to it: so to send an event to one of many clients touches this object alone, and
 * neither the transport nor what libuv has of it, which come from memory if there are thousands.
 * The descriptor is asked for when it is needed: that takes as long as three writes of the transport, and many connections
 * are written to once. */

typedef enum {
    NEW,     /* never written to: the transport does it */
    UNSURE,  /* bytes may wait in the transport, which has to be asked */
    IDLE,    /* none wait, and the descriptor is known */
    LOST,    /* the descriptor is, or will be, another connection's */
} State;

typedef struct {
    PyObject_HEAD
    PyObject *transport;
    int descriptor;  /* -1: not asked for yet */
    State state;
} DirectWriter;

/* Ask for the descriptor. -1 with an exception. */
static int find_descriptor(DirectWriter *self)
{
    PyObject *socket = PyObject_CallMethodOneArg(self->transport, name_of_get_extra_info, socket_text);
    if (socket == NULL)
        return -1;
    Py_ssize_t number = number_from(socket, name_of_fileno);
    Py_DECREF(socket);
    if (number < 0)  /* ValueError: that of a closed socket is -1 */
        return -1;
    self->descriptor = (int)number;
    return 0;
}

/* Return whether bytes may be sent past the transport: nothing waits in it, and it is not about to close the descriptor.
 * -1 with an exception. */
static int may_send(DirectWriter *self)
{
    if (self->state == IDLE)
        return 1;
    if (self->state == LOST)
        return 0;
    Py_ssize_t waiting = number_from(self->transport, name_of_size);
    if (waiting != 0)
        return waiting < 0 ? -1 : 0;
    Py_ssize_t closing = number_from(self->transport, name_of_is_closing);
    if (closing != 0)
        return closing < 0 ? -1 : 0;
    if (self->descriptor < 0 && find_descriptor(self) < 0)
        return -1;
    if (self->state == LOST)  /* Python code has run meanwhile */
        return 0;
    self->state = IDLE;
    return 1;
}

/* Have the transport send bytes, some of which may wait in it then. -1 with an exception. */
static int write_through(DirectWriter *self, PyObject *data)
{
    if (self->state != LOST)
        self->state = UNSURE;
    return write_by(self->transport, data);
}

/* Abort a connection that was sent a part of some bytes and can't be sent the rest, for want of memory: the caller will
 * take it that nothing was sent. The exception stays. */
static void abort_after_part(PyObject *transport)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    Py_XDECREF(PyObject_CallMethodNoArgs(transport, name_of_abort));
    PyErr_Restore(type, value, traceback);
}

/* Send what the socket takes; have the transport send the rest, also after an error, which it will meet again. */
static int send_now(DirectWriter *self, PyObject *data)
{
    const char *bytes = PyBytes_AS_STRING(data);
    Py_ssize_t size = PyBytes_GET_SIZE(data);
    ssize_t sent = send(self->descriptor, bytes, (size_t)size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent == size)
        return 0;
    if (sent <= 0)
        return write_through(self, data);
    PyObject *whole = PyMemoryView_FromObject(data);  /* no copy: many clients may be sent the same bytes */
    PyObject *rest = whole == NULL ? NULL : PySequence_GetSlice(whole, sent, size);
    Py_XDECREF(whole);
    int result = rest == NULL ? -1 : write_through(self, rest);
    Py_XDECREF(rest);
    if (result < 0)
        abort_after_part(self->transport);
    return result;
}

static PyObject *DirectWriter_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"transport", NULL};
    PyObject *transport;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O", names, &transport))
        return NULL;
    DirectWriter *self = (DirectWriter *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->transport = Py_NewRef(transport);
        self->descriptor = -1;
        self->state = NEW;
    }
    return (PyObject *)self;
}

static int DirectWriter_traverse(DirectWriter *self, visitproc visit, void *arg)
{
    Py_VISIT(self->transport);
    return 0;
}

static void DirectWriter_dealloc(DirectWriter *self)
{
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->transport);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *DirectWriter_write(DirectWriter *self, PyObject *data)
{
    bool may_be = PyBytes_CheckExact(data) && PyBytes_GET_SIZE(data) && self->state != NEW;
    int direct = may_be ? may_send(self) : 0;
    if (direct < 0 || (direct ? send_now(self, data) : write_through(self, data)) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *DirectWriter_get_write_buffer_size(DirectWriter *self, PyObject *Py_UNUSED(ignored))
{
    if (self->state == IDLE)
        return PyLong_FromLong(0);
    return PyObject_CallMethodNoArgs(self->transport, name_of_size);
}

static PyObject *DirectWriter_abort(DirectWriter *self, PyObject *Py_UNUSED(ignored))
{
    return PyObject_CallMethodNoArgs(self->transport, name_of_abort);
}

static PyMethodDef DirectWriter_methods[] = {
    {"abort", (PyCFunction)DirectWriter_abort, METH_NOARGS, "Close the connection at once."},
    {"write", (PyCFunction)DirectWriter_write, METH_O, "Send bytes, or let them wait in the transport."},
    {"get_write_buffer_size", (PyCFunction)DirectWriter_get_write_buffer_size, METH_NOARGS,
     "Return how many bytes wait in the transport."},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject DirectWriterType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "proxy.machine.compiled.DirectWriter",
    .tp_doc = "A transport, past which bytes are sent while none wait in it.",
    .tp_basicsize = sizeof(DirectWriter),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = DirectWriter_new,
    .tp_dealloc = (destructor)DirectWriter_dealloc,
    .tp_traverse = (traverseproc)DirectWriter_traverse,
    .tp_methods = DirectWriter_methods,
};

/* Return whether a transport may be written to: nothing waits in it. -1 with an exception. */
static int may_write(PyObject *transport)
{
    if (Py_IS_TYPE(transport, &DirectWriterType))
        return may_send((DirectWriter *)transport);
    Py_ssize_t waiting = number_from(transport, name_of_size);
    return waiting < 0 ? -1 : waiting == 0;
}

/* Write to a transport in which nothing waited a moment ago. -1 with an exception. */
static int write_now(PyObject *transport, PyObject *data)
{
    if (!Py_IS_TYPE(transport, &DirectWriterType))
        return write_by(transport, data);
    DirectWriter *writer = (DirectWriter *)transport;
    return writer->state == IDLE ? send_now(writer, data) : write_through(writer, data);
}

/* Forget an exception: 0. It stays if it is no Exception but an interrupt: -1. */
static int forget_exception(void)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception))
        return -1;
    PyErr_Clear();
    return 0;
}

/* Write if nothing waits to be sent: 1. Otherwise do nothing: 0, also if the transport raises, as it does when its
 * connection was just lost. -1 with another exception: an interrupt. */
static int write_if_idle(PyObject *transport, PyObject *data)
{
    int result = may_write(transport);
    if (result > 0 && write_now(transport, data) < 0)
        result = -1;
    return result < 0 ? forget_exception() : result;
}

/* Write to each of a tuple of transports if nothing waits in any: 1. Otherwise do nothing: 0, also if the first one raises.
 * Another one that raises lacks what those before it were sent, so its connection is aborted. -1: an interrupt. */
static int write_to_each(PyObject *transports, PyObject *data)
{
    Py_ssize_t count = PyTuple_GET_SIZE(transports);
    for (Py_ssize_t i = 0; i < count; i++) {
        int may = may_write(PyTuple_GET_ITEM(transports, i));
        if (may <= 0)
            return may < 0 ? forget_exception() : 0;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *transport = PyTuple_GET_ITEM(transports, i);
        if (write_now(transport, data) == 0)
            continue;
        if (forget_exception() < 0)
            return -1;
        if (i == 0)
            return 0;
        PyObject *aborted = PyObject_CallMethodNoArgs(transport, name_of_abort);
        if (aborted == NULL && forget_exception() < 0)
            return -1;
        Py_XDECREF(aborted);
    }
    return 1;
}

static PyObject *lost(PyObject *Py_UNUSED(module), PyObject *writer)
{
    if (Py_IS_TYPE(writer, &DirectWriterType))
        ((DirectWriter *)writer)->state = LOST;
    Py_RETURN_NONE;
}

static PyObject *write_all(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyBytes_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "write_all takes transports and bytes");
        return NULL;
    }
    PyObject *unsure = PyList_New(0), *transports = PyObject_GetIter(args[0]), *transport;
    if (unsure == NULL || transports == NULL)
        goto failed;
    while ((transport = PyIter_Next(transports)) != NULL) {
        int written = write_if_idle(transport, args[1]);
        if (written == 0)
            written = PyList_Append(unsure, transport);
        Py_DECREF(transport);
        if (written < 0)
            goto failed;
    }
    if (PyErr_Occurred())
        goto failed;
    Py_DECREF(transports);
    return unsure;
failed:
    Py_XDECREF(transports);
    Py_XDECREF(unsure);
    return NULL;
}

static char *put(char *to, const char *bytes, Py_ssize_t size)
{
    memcpy(to, bytes, (size_t)size);
    return to + size;
}

static char *put_bytes(char *to, PyObject *bytes)
{
    return put(to, PyBytes_AS_STRING(bytes), PyBytes_GET_SIZE(bytes));
}

/* Forward: an event's way. What it has of each frame is in two pieces of memory, not in lists of objects: with 500 streams,
 * each piece that an event touches comes from memory, and new ones are pages to begin with. */

typedef struct {
    double at;
    Py_ssize_t size;
} Note;

typedef struct {
    PyObject_HEAD
    PyObject *transports, *head, *tail;
    double at, delay_s;
    Py_ssize_t room, waiting;
    PyObject *bytes;  /* of the frames that wait, and room for more; NULL: of none */
    Py_ssize_t size, allocated;
    Note notes[MOST_FRAMES];
} Forward;

static PyObject *Forward_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"transports", NULL};
    PyObject *transports;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O!", names, &PyTuple_Type, &transports))
        return NULL;
    Forward *self = PyObject_GC_New(Forward, type);  /* tp_alloc would clear all notes */
    if (self == NULL)
        return NULL;
    self->transports = Py_NewRef(transports);
    self->head = PyBytes_FromStringAndSize(NULL, 0);
    self->tail = PyBytes_FromStringAndSize(NULL, 0);
    self->bytes = NULL;
    self->at = self->delay_s = 0.0;
    self->room = self->waiting = self->size = self->allocated = 0;
    PyObject_GC_Track(self);
    if (self->head == NULL || self->tail == NULL)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static int Forward_traverse(Forward *self, visitproc visit, void *arg)
{
    Py_VISIT(self->transports);
    return 0;
}

static void Forward_dealloc(Forward *self)
{
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->transports);
    Py_XDECREF(self->bytes);
    Py_XDECREF(self->head);
    Py_XDECREF(self->tail);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* Append a frame to a list. -1 with an exception. */
static int append_frame(PyObject *frames, const char *bytes, Py_ssize_t size)
{
    PyObject *frame = PyBytes_FromStringAndSize(bytes, size);
    int result = frame == NULL ? -1 : PyList_Append(frames, frame);
    Py_XDECREF(frame);
    return result;
}

/* A chunk, and the frame in it. */
typedef struct {
    const char *frame;
    Py_ssize_t frame_size, size;
} Chunk;

/* Find a chunk at the beginning of some bytes; return whether it is all there. The size on its first line is as
 * `http.chunk` writes it, of so many digits at most. */
static bool find_chunk(const char *bytes, Py_ssize_t left, Py_ssize_t most_digits, Chunk *found)
{
    Py_ssize_t named = 0, digits = 0;
    for (; digits < left && digits <= most_digits; digits++) {
        char digit = bytes[digits];
        if (digit >= '0' && digit <= '9')
            named = named * 16 + (digit - '0');
        else if (digit >= 'a' && digit <= 'f')
            named = named * 16 + (digit - 'a' + 10);
        else
            break;
    }
    Py_ssize_t start = digits + 2, size = start + named + 2;
    if (digits == 0 || digits > most_digits || bytes[0] == '0' || size > left)
        return false;
    if (bytes[digits] != '\r' || bytes[digits + 1] != '\n' || bytes[size - 2] != '\r' || bytes[size - 1] != '\n')
        return false;
    *found = (Chunk){bytes + start, named, size};
    return true;
}

/* Do the same for a chunk with one ordinary frame. */
static bool find_ordinary(Forward *self, const char *bytes, Py_ssize_t left, Chunk *found)
{
    if (!find_chunk(bytes, left, SIZE_DIGITS, found) || found->size > LONG_READ)
        return false;
    Py_ssize_t head = PyBytes_GET_SIZE(self->head), tail = PyBytes_GET_SIZE(self->tail);
    const char *text = found->frame + head, *end = bytes + found->size - tail;
    if (text >= end || memcmp(found->frame, PyBytes_AS_STRING(self->head), (size_t)head) != 0
        || memcmp(end, PyBytes_AS_STRING(self->tail), (size_t)tail) != 0)
        return false;
    size_t length = (size_t)(end - text);
    /* a quotation mark, which may end the text, LF or CR */
    return !memchr(text, '"', length) && !memchr(text, '\n', length) && !memchr(text, '\r', length);
}

/* Return whether a read consists of chunks with one ordinary frame each, for all of which there is room. */
static bool is_ordinary(Forward *self, PyObject *data)
{
    const char *bytes = PyBytes_AS_STRING(data), *end = bytes + PyBytes_GET_SIZE(data);
    Py_ssize_t count = 0, size = self->size;
    for (Chunk chunk; bytes < end; bytes += chunk.size) {
        if (++count > self->room || self->waiting + count > MOST_FRAMES || !find_ordinary(self, bytes, end - bytes, &chunk))
            return false;
        size += chunk.frame_size;
    }
    return count > 0 && size <= MOST_BYTES;
}

/* Have room for so many bytes. -1 with an exception; then what was kept is as it was. */
static int make_room(Forward *self, Py_ssize_t needed)
{
    Py_ssize_t wanted = self->bytes == NULL ? FIRST_BYTES : Py_MIN(self->allocated * 4, MOST_BYTES);
    PyObject *larger = PyBytes_FromStringAndSize(NULL, Py_MAX(wanted, needed));
    if (larger == NULL)
        return -1;
    if (self->size)
        memcpy(PyBytes_AS_STRING(larger), PyBytes_AS_STRING(self->bytes), (size_t)self->size);
    Py_XSETREF(self->bytes, larger);
    self->allocated = PyBytes_GET_SIZE(larger);
    return 0;
}

/* Keep a frame, its size and when it came. -1 with an exception, also if there is no room: the transport may have run any
 * Python code since that was looked at. */
static int keep_frame(Forward *self, const char *frame, Py_ssize_t size, double at)
{
    if (self->waiting >= MOST_FRAMES) {
        PyErr_SetString(PyExc_RuntimeError, "other frames came meanwhile");
        return -1;
    }
    Py_ssize_t needed = self->size + size;
    if ((needed > self->allocated || self->bytes == NULL) && make_room(self, needed) < 0)
        return -1;
    memcpy(PyBytes_AS_STRING(self->bytes) + self->size, frame, (size_t)size);
    self->size = needed;
    self->notes[self->waiting] = (Note){self->at = at, size};
    self->waiting++;
    self->room--;
    return 0;
}

/* Keep the frames of a read that was sent. -1 with an exception. */
static int keep(Forward *self, PyObject *data, double at)
{
    const char *bytes = PyBytes_AS_STRING(data), *end = bytes + PyBytes_GET_SIZE(data);
    for (Chunk chunk; bytes < end && find_ordinary(self, bytes, end - bytes, &chunk); bytes += chunk.size)
        if (keep_frame(self, chunk.frame, chunk.frame_size, at) < 0)
            return -1;
    return 0;
}

/* Note how long ago a read came that was just sent. -1 with an exception. */
static int note_delay(Forward *self, double at)
{
    PyObject *now = PyObject_CallNoArgs(monotonic);
    if (now == NULL)
        return -1;
    self->delay_s = PyFloat_AsDouble(now) - at;
    Py_DECREF(now);
    return PyErr_Occurred() ? -1 : 0;
}

static PyObject *Forward_take(Forward *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyBytes_CheckExact(args[0]) || !PyFloat_CheckExact(args[1])) {
        PyErr_SetString(PyExc_TypeError, "take needs bytes and seconds");
        return NULL;
    }
    PyObject *data = args[0];
    if (!is_ordinary(self, data))
        Py_RETURN_FALSE;
    double at = PyFloat_AS_DOUBLE(args[1]);
    int written = write_to_each(self->transports, data);
    if (written < 0)
        return NULL;
    if (written == 0)
        Py_RETURN_FALSE;
    bool first = self->waiting == 0;
    if (keep(self, data, at) < 0 || (first && note_delay(self, at) < 0))
        return NULL;
    Py_RETURN_TRUE;
}

static PyObject *Forward_send(Forward *self, PyObject *data)
{
    if (!PyBytes_CheckExact(data)) {
        PyErr_SetString(PyExc_TypeError, "send needs bytes");
        return NULL;
    }
    int written = write_to_each(self->transports, data);
    return written < 0 ? NULL : PyBool_FromLong(written);
}

static PyObject *Forward_add(Forward *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyBytes_CheckExact(args[0]) || !PyFloat_CheckExact(args[1])) {
        PyErr_SetString(PyExc_TypeError, "add needs bytes and seconds");
        return NULL;
    }
    Py_ssize_t size = PyBytes_GET_SIZE(args[0]);
    if (self->room <= 0 || self->waiting >= MOST_FRAMES || size > LONG_READ || self->size + size > MOST_BYTES)
        Py_RETURN_FALSE;
    if (keep_frame(self, PyBytes_AS_STRING(args[0]), size, PyFloat_AS_DOUBLE(args[1])) < 0)
        return NULL;
    Py_RETURN_TRUE;
}

/* Return how many bytes some frames have; -1 with an exception. */
static Py_ssize_t size_of(PyObject *frames)
{
    Py_ssize_t size = 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(frames); i++) {
        PyObject *frame = PyTuple_GET_ITEM(frames, i);
        if (!PyBytes_Check(frame)) {
            PyErr_SetString(PyExc_TypeError, "frames are bytes");
            return -1;
        }
        size += PyBytes_GET_SIZE(frame);
    }
    return size;
}

/* Give away the bytes of the frames that wait, and of others after them, so many in all. NULL with an exception; then they
 * are kept. */
static PyObject *give_bytes(Forward *self, PyObject *others, Py_ssize_t needed)
{
    PyObject *bytes = self->bytes;
    if (bytes == NULL || needed > self->allocated) {
        bytes = PyBytes_FromStringAndSize(NULL, needed);
        if (bytes == NULL)
            return NULL;
        if (self->size)
            memcpy(PyBytes_AS_STRING(bytes), PyBytes_AS_STRING(self->bytes), (size_t)self->size);
        Py_CLEAR(self->bytes);
    }
    self->bytes = NULL;
    char *to = PyBytes_AS_STRING(bytes) + self->size;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(others); i++)
        to = put_bytes(to, PyTuple_GET_ITEM(others, i));
    self->waiting = self->size = self->allocated = 0;
    if (PyBytes_GET_SIZE(bytes) != needed)
        _PyBytes_Resize(&bytes, needed);  /* it becomes smaller, in place */
    return bytes;
}

/* Fill a list with the sizes of the frames that wait and of others, and one with the times of the former. -1 with an
 * exception. */
static int fill_in(Forward *self, PyObject *others, PyObject *sizes, PyObject *times)
{
    Py_ssize_t waiting = PyList_GET_SIZE(times);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(sizes); i++) {
        PyObject *size = PyLong_FromSsize_t(
            i < waiting ? self->notes[i].size : PyBytes_GET_SIZE(PyTuple_GET_ITEM(others, i - waiting)));
        if (size == NULL)
            return -1;
        PyList_SET_ITEM(sizes, i, size);
    }
    for (Py_ssize_t i = 0; i < waiting; i++) {
        PyObject *at = PyFloat_FromDouble(self->notes[i].at);
        if (at == NULL)
            return -1;
        PyList_SET_ITEM(times, i, at);
    }
    return 0;
}

static PyObject *Forward_drain(Forward *self, PyObject *const *args, Py_ssize_t count)
{
    if (count > 1) {
        PyErr_SetString(PyExc_TypeError, "drain takes frames, or nothing");
        return NULL;
    }
    PyObject *others = count ? PySequence_Tuple(args[0]) : PyTuple_New(0), *bytes = NULL;
    if (others == NULL)
        return NULL;
    Py_ssize_t waiting = self->waiting, more = size_of(others);
    PyObject *sizes = PyList_New(waiting + PyTuple_GET_SIZE(others)), *times = PyList_New(waiting), *drained = PyTuple_New(3);
    if (more < 0 || sizes == NULL || times == NULL || drained == NULL)
        goto failed;
    if (waiting != self->waiting) {  /* by a finalizer that the garbage collector has called */
        PyErr_SetString(PyExc_RuntimeError, "frames came or went meanwhile");
        goto failed;
    }
    if (fill_in(self, others, sizes, times) < 0 || (bytes = give_bytes(self, others, self->size + more)) == NULL)
        goto failed;
    Py_DECREF(others);
    PyTuple_SET_ITEM(drained, 0, bytes);
    PyTuple_SET_ITEM(drained, 1, sizes);
    PyTuple_SET_ITEM(drained, 2, times);
    return drained;
failed:
    Py_DECREF(others);
    Py_XDECREF(sizes);
    Py_XDECREF(times);
    Py_XDECREF(drained);
    return NULL;
}

static PyObject *Forward_frames(Forward *self, PyObject *number)
{
    Py_ssize_t first = PyLong_AsSsize_t(number);
    if (first == -1 && PyErr_Occurred())
        return NULL;
    PyObject *frames = PyList_New(0);
    if (frames == NULL)
        return NULL;
    Py_ssize_t begin = 0;
    for (Py_ssize_t i = 0; i < self->waiting; begin += self->notes[i++].size) {
        if (i < first)
            continue;
        if (append_frame(frames, PyBytes_AS_STRING(self->bytes) + begin, self->notes[i].size) < 0) {
            Py_DECREF(frames);
            return NULL;
        }
    }
    return frames;
}

static PyObject *Forward_surround(Forward *self, PyObject *args)
{
    PyObject *head, *tail;
    if (!PyArg_ParseTuple(args, "SS", &head, &tail))
        return NULL;
    Py_SETREF(self->head, Py_NewRef(head));
    Py_SETREF(self->tail, Py_NewRef(tail));
    Py_RETURN_NONE;
}

static PyMethodDef Forward_methods[] = {
    {"add", (PyCFunction)(void (*)(void))Forward_add, METH_FASTCALL, "Keep a frame that was forwarded elsewhere."},
    {"drain", (PyCFunction)(void (*)(void))Forward_drain, METH_FASTCALL,
     "Return the bytes, sizes and times of the frames that wait, and forget them."},
    {"frames", (PyCFunction)Forward_frames, METH_O, "Return the frames that wait, from one of them on."},
    {"send", (PyCFunction)Forward_send, METH_O, "Write bytes to all, if nothing waits in any."},
    {"surround", (PyCFunction)Forward_surround, METH_VARARGS, "Note what surrounds the text of ordinary frames."},
    {"take", (PyCFunction)(void (*)(void))Forward_take, METH_FASTCALL,
     "Forward a read that is chunks with one ordinary frame each."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef Forward_members[] = {
    {"waiting", T_PYSSIZET, offsetof(Forward, waiting), READONLY, NULL},
    {"at", T_DOUBLE, offsetof(Forward, at), 0, NULL},
    {"delay_s", T_DOUBLE, offsetof(Forward, delay_s), 0, NULL},
    {"room", T_PYSSIZET, offsetof(Forward, room), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyTypeObject ForwardType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "proxy.machine.compiled.Forward",
    .tp_doc = "Sends the events of one upstream to one client.",
    .tp_basicsize = sizeof(Forward),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = Forward_new,
    .tp_dealloc = (destructor)Forward_dealloc,
    .tp_traverse = (traverseproc)Forward_traverse,
    .tp_methods = Forward_methods,
    .tp_members = Forward_members,
};

/* Events that are not forwarded here */

/* Find a chunk that is one SSE event at the beginning of some bytes; return whether there is one. */
static bool find_event(const char *bytes, Py_ssize_t left, Py_ssize_t most_digits, Chunk *found)
{
    if (!find_chunk(bytes, left, most_digits, found) || found->frame_size < 2)
        return false;
    const char *text = found->frame, *end = text + found->frame_size - 2;
    if (end[0] != '\n' || end[1] != '\n' || text[0] == ':' || memchr(text, '\r', (size_t)(end - text)))
        return false;
    for (const char *line = text; (line = memchr(line, '\n', (size_t)(end - line))) != NULL; line++)
        if (line == text || line[1] == '\n')  /* a blank line; `end` is an LF, too */
            return false;
    return true;
}

static PyObject *events(PyObject *Py_UNUSED(module), PyObject *data)
{
    if (!PyBytes_CheckExact(data)) {
        PyErr_SetString(PyExc_TypeError, "events takes bytes");
        return NULL;
    }
    PyObject *frames = PyList_New(0);
    if (frames == NULL)
        return NULL;
    const char *bytes = PyBytes_AS_STRING(data), *end = bytes + PyBytes_GET_SIZE(data);
    Py_ssize_t most_digits = SIZE_DIGITS;
    for (Chunk chunk; bytes < end; bytes += chunk.size, most_digits = MOST_DIGITS) {
        if (!find_event(bytes, end - bytes, most_digits, &chunk)) {
            Py_DECREF(frames);
            return PyList_New(0);
        }
        if (append_frame(frames, chunk.frame, chunk.frame_size) < 0) {
            Py_DECREF(frames);
            return NULL;
        }
    }
    return frames;
}

static PyObject *data_frames(PyObject *Py_UNUSED(module), PyObject *data)
{
    if (!PyBytes_CheckExact(data)) {
        PyErr_SetString(PyExc_TypeError, "data_frames takes bytes");
        return NULL;
    }
    PyObject *frames = PyList_New(0);
    if (frames == NULL)
        return NULL;
    const char *frame = PyBytes_AS_STRING(data), *end = frame + PyBytes_GET_SIZE(data), *next;
    bool is_whole = end - frame >= 2 && end[-1] == '\n' && end[-2] == '\n';
    for (; is_whole && frame < end; frame = next) {
        const char *line_end = memchr(frame, '\n', (size_t)(end - frame));  /* never NULL: `end` follows an LF */
        next = line_end + 2;
        if (line_end - frame < 6 || memcmp(frame, "data: ", 6) != 0 || memchr(frame, '\r', (size_t)(line_end - frame))
            || next > end || line_end[1] != '\n') {
            is_whole = false;
        } else if (append_frame(frames, frame, next - frame) < 0) {
            Py_DECREF(frames);
            return NULL;
        }
    }
    if (!is_whole && PyList_SetSlice(frames, 0, PY_SSIZE_T_MAX, NULL) < 0)
        Py_CLEAR(frames);
    return frames;
}

/* Responses that are as most are: all others are left to llhttp */

#define CHUNKED (-1)
#define MOST_LENGTH_DIGITS 9  /* of a Content-Length */

/* What a head has said so far of where the body ends. */
typedef struct {
    bool is_chunked, has_length;
    Py_ssize_t length;
} Framing;

static bool is_digit(char byte)
{
    return byte >= '0' && byte <= '9';
}

static bool is_letter(char byte)
{
    return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z');
}

/* Of a header's name; RFC 9110 allows a few more, which are not usual. */
static bool is_name(char byte)
{
    return is_letter(byte) || is_digit(byte) || byte == '-' || byte == '_';
}

/* Of a header's value or of a reason: neither a control character, nor in them CR or LF. */
static bool is_text(char byte)
{
    return (unsigned char)byte >= 32 && byte != 127;
}

/* Return whether some bytes are a text, which is in lower case, in any case. */
static bool is_called(const char *bytes, Py_ssize_t size, const char *text)
{
    if (size != (Py_ssize_t)strlen(text))
        return false;
    for (Py_ssize_t i = 0; i < size; i++)
        if ((is_letter(bytes[i]) ? bytes[i] | 32 : bytes[i]) != text[i])
            return false;
    return true;
}

/* Note what a header says of where the body ends; return whether that is usual, and says nothing of the connection. */
static bool note_framing(Framing *framing, const char *name, Py_ssize_t name_size, const char *value, Py_ssize_t size)
{
    if (is_called(name, name_size, "transfer-encoding")) {
        if (framing->is_chunked || !is_called(value, size, "chunked"))
            return false;
        framing->is_chunked = true;
    } else if (is_called(name, name_size, "content-length")) {
        if (framing->has_length || size == 0 || size > MOST_LENGTH_DIGITS)
            return false;
        for (Py_ssize_t i = 0; i < size; i++) {
            if (!is_digit(value[i]))
                return false;
            framing->length = framing->length * 10 + (value[i] - '0');
        }
        framing->has_length = true;
    } else if (is_called(name, name_size, "connection"))
        return is_called(value, size, "keep-alive");
    return !is_called(name, name_size, "upgrade") && !is_called(name, name_size, "proxy-connection");
}

/* Return where the text at the beginning of some bytes ends with CR and LF; NULL if it does not. */
static const char *line_end(const char *bytes, const char *end)
{
    while (bytes < end && is_text(*bytes))
        bytes++;
    return end - bytes >= 2 && bytes[0] == '\r' && bytes[1] == '\n' ? bytes : NULL;
}

/* Append a header to a list, and return where the next one begins; NULL if it is not usual, or with an exception. */
static const char *take_header(PyObject *headers, Framing *framing, const char *name, const char *end)
{
    const char *colon = name;
    while (colon < end && is_name(*colon))
        colon++;
    if (colon == name || end - colon < 2 || colon[0] != ':' || colon[1] != ' ')
        return NULL;
    const char *value = colon + 2, *value_end = line_end(value, end);
    if (value_end == NULL || value_end == value || *value == ' ' || value_end[-1] == ' '
        || !note_framing(framing, name, colon - name, value, value_end - value))
        return NULL;
    PyObject *header = Py_BuildValue("(y#y#)", name, colon - name, value, value_end - value);
    int result = header == NULL ? -1 : PyList_Append(headers, header);
    Py_XDECREF(header);
    return result < 0 ? NULL : value_end + 2;
}

static PyObject *response_head(PyObject *Py_UNUSED(module), PyObject *data)
{
    if (!PyBytes_CheckExact(data)) {
        PyErr_SetString(PyExc_TypeError, "response_head takes bytes");
        return NULL;
    }
    const char *bytes = PyBytes_AS_STRING(data), *end = bytes + PyBytes_GET_SIZE(data);
    if (end - bytes < 15 || memcmp(bytes, "HTTP/1.1 ", 9) != 0 || bytes[9] < '2' || bytes[9] > '5' || !is_digit(bytes[10])
        || !is_digit(bytes[11]) || bytes[12] != ' ')
        Py_RETURN_NONE;
    int status = (bytes[9] - '0') * 100 + (bytes[10] - '0') * 10 + (bytes[11] - '0');
    const char *reason = bytes + 13, *at = line_end(reason, end);
    if (at == NULL || status == 204 || status == 304)
        Py_RETURN_NONE;
    Py_ssize_t reason_size = at - reason;
    PyObject *headers = PyList_New(0);
    if (headers == NULL)
        return NULL;
    Framing framing = {false, false, 0};
    for (at += 2; at != NULL && !(end - at >= 2 && at[0] == '\r' && at[1] == '\n');)
        at = take_header(headers, &framing, at, end);
    if (at == NULL || framing.is_chunked == framing.has_length) {
        Py_DECREF(headers);
        if (PyErr_Occurred())
            return NULL;
        Py_RETURN_NONE;
    }
    return Py_BuildValue("(iy#Nnn)", status, reason, reason_size, headers, framing.is_chunked ? CHUNKED : framing.length,
                         at + 2 - bytes);
}

/* Return how many bytes the chunks have from some bytes on, and whether the last chunk is there; -1: there are others. */
static Py_ssize_t size_of_chunks(const char *bytes, const char *end, bool *ended)
{
    Py_ssize_t size = 0;
    *ended = false;
    for (Chunk chunk; bytes < end; bytes += chunk.size) {
        if (end - bytes == 5 && memcmp(bytes, "0\r\n\r\n", 5) == 0) {
            *ended = true;
            return size;
        }
        if (!find_chunk(bytes, end - bytes, MOST_DIGITS, &chunk))
            return -1;
        size += chunk.frame_size;
    }
    return size;
}

static PyObject *chunked_body(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyBytes_CheckExact(args[0])) {
        PyErr_SetString(PyExc_TypeError, "chunked_body takes bytes and a number");
        return NULL;
    }
    Py_ssize_t begin = PyLong_AsSsize_t(args[1]);
    if (begin == -1 && PyErr_Occurred())
        return NULL;
    if (begin < 0 || begin > PyBytes_GET_SIZE(args[0])) {
        PyErr_SetString(PyExc_ValueError, "the body begins outside of the bytes");
        return NULL;
    }
    const char *bytes = PyBytes_AS_STRING(args[0]) + begin, *end = PyBytes_AS_STRING(args[0]) + PyBytes_GET_SIZE(args[0]);
    bool ended;
    Py_ssize_t size = size_of_chunks(bytes, end, &ended);
    if (size < 0)
        Py_RETURN_NONE;
    PyObject *body = PyBytes_FromStringAndSize(NULL, size);
    if (body == NULL)
        return NULL;
    char *to = PyBytes_AS_STRING(body);
    for (Chunk chunk; to < PyBytes_AS_STRING(body) + size; bytes += chunk.size) {
        find_chunk(bytes, end - bytes, MOST_DIGITS, &chunk);
        to = put(to, chunk.frame, chunk.frame_size);
    }
    return Py_BuildValue("(NO)", body, ended ? Py_True : Py_False);
}

/* Heads */

/* Return whether something is a header: a tuple of two bytes. Raise if not. */
static bool is_header(PyObject *header)
{
    if (PyTuple_CheckExact(header) && PyTuple_GET_SIZE(header) == 2 && PyBytes_CheckExact(PyTuple_GET_ITEM(header, 0))
        && PyBytes_CheckExact(PyTuple_GET_ITEM(header, 1)))
        return true;
    PyErr_SetString(PyExc_TypeError, "a header must be a name and a value, both bytes");
    return false;
}

/* Runs no Python code from the moment it has the headers as a sequence, so that they do not change meanwhile. */
static PyObject *head(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyBytes_CheckExact(args[0])) {
        PyErr_SetString(PyExc_TypeError, "head takes bytes and headers");
        return NULL;
    }
    PyObject *headers = PySequence_Fast(args[1], "headers must be a sequence"), *made = NULL;
    if (headers == NULL)
        return NULL;
    PyObject **each = PySequence_Fast_ITEMS(headers);
    Py_ssize_t number = PySequence_Fast_GET_SIZE(headers), size = PyBytes_GET_SIZE(args[0]) + 4;
    for (Py_ssize_t i = 0; i < number; i++) {
        if (!is_header(each[i]))
            goto done;
        size += PyBytes_GET_SIZE(PyTuple_GET_ITEM(each[i], 0)) + PyBytes_GET_SIZE(PyTuple_GET_ITEM(each[i], 1)) + 4;
    }
    made = PyBytes_FromStringAndSize(NULL, size);
    if (made == NULL)
        goto done;
    char *to = put_bytes(PyBytes_AS_STRING(made), args[0]);
    for (Py_ssize_t i = 0; i < number; i++) {
        to = put_bytes(put(to, "\r\n", 2), PyTuple_GET_ITEM(each[i], 0));
        to = put_bytes(put(to, ": ", 2), PyTuple_GET_ITEM(each[i], 1));
    }
    put(to, "\r\n\r\n", 4);
done:
    Py_DECREF(headers);
    return made;
}

/* The module */

static PyMethodDef functions[] = {
    {"chunked_body", (PyCFunction)(void (*)(void))chunked_body, METH_FASTCALL,
     "Return the body in some complete chunks, and whether they end it."},
    {"data_frames", (PyCFunction)data_frames, METH_O, "Return the frames of bytes that are one line of data each."},
    {"events", (PyCFunction)events, METH_O, "Return the frames of a read that is chunks with one event each."},
    {"head", (PyCFunction)(void (*)(void))head, METH_FASTCALL, "Return the bytes of a message's head."},
    {"lost", (PyCFunction)lost, METH_O, "Note that the connection of a writer is lost."},
    {"response_head", (PyCFunction)response_head, METH_O, "Return the parts of a response's head, if it is as most are."},
    {"write_all", (PyCFunction)(void (*)(void))write_all, METH_FASTCALL, "Write the same bytes to many transports."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "proxy.machine.compiled",
    .m_doc = "What events and requests pass, as machine code.",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit_compiled(void)
{
    name_of_write = PyUnicode_InternFromString("write");
    name_of_size = PyUnicode_InternFromString("get_write_buffer_size");
    name_of_is_closing = PyUnicode_InternFromString("is_closing");
    name_of_get_extra_info = PyUnicode_InternFromString("get_extra_info");
    name_of_fileno = PyUnicode_InternFromString("fileno");
    name_of_abort = PyUnicode_InternFromString("abort");
    socket_text = PyUnicode_InternFromString("socket");
    if (name_of_write == NULL || name_of_size == NULL || name_of_is_closing == NULL || name_of_get_extra_info == NULL
        || name_of_fileno == NULL || name_of_abort == NULL || socket_text == NULL)
        return NULL;
    PyObject *time = PyImport_ImportModule("time");
    if (time == NULL)
        return NULL;
    monotonic = PyObject_GetAttrString(time, "monotonic");
    Py_DECREF(time);
    if (monotonic == NULL)
        return NULL;
    PyObject *made = PyModule_Create(&module);
    if (made == NULL)
        return NULL;
    if (PyModule_AddType(made, &DirectWriterType) < 0 || PyModule_AddType(made, &ForwardType) < 0)
        Py_CLEAR(made);
    return made;
}
